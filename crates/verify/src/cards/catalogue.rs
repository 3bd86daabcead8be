//! The cards within the catalogue, `kernels/README.md`: each between two lines that a reader does not see.

use crate::Op;

fn first_line(op: Op) -> String {
    format!("<!-- cards: {} -->\n", op.name())
}

const LAST_LINE: &str = "<!-- end of cards -->\n";

/// Where in the text the card of an operation is.
fn range(text: &str, op: Op) -> Option<std::ops::Range<usize>> {
    let first = first_line(op);
    let start = text.find(&first)? + first.len();
    let end = start + text[start..].find(LAST_LINE)?;
    Some(start..end)
}

/// The card of an operation that the catalogue has.
#[must_use]
pub fn card_in(catalogue: &str, op: Op) -> Option<&str> {
    range(catalogue, op).map(|range| &catalogue[range])
}

/// The catalogue with this card of an operation in place of the one that it has; None where it has none.
#[must_use]
pub fn with_card(catalogue: &str, op: Op, card: &str) -> Option<String> {
    let mut text = catalogue.to_owned();
    text.replace_range(range(catalogue, op)?, card);
    Some(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_card_is_replaced_and_nothing_else() {
        let catalogue = "# Norm\n<!-- cards: norm -->\nold\n<!-- end of cards -->\nafter\n";
        assert_eq!(card_in(catalogue, Op::Norm), Some("old\n"));
        let text = with_card(catalogue, Op::Norm, "new\nlines\n").unwrap();
        assert_eq!(text, "# Norm\n<!-- cards: norm -->\nnew\nlines\n<!-- end of cards -->\nafter\n");
        assert_eq!(with_card(catalogue, Op::AdamW, "new\n"), None);
    }
}
