//! The kernels that a PTX text defines, and how large their parameters are.

/// A kernel of a PTX text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Entry {
    pub name: String,
    /// The size of each parameter in bytes.
    pub params: Vec<usize>,
}

/// Every `.entry` of the text, in order.
///
/// ```text
/// .visible .entry scale(
///     .param .align 8 .b8 scale_param_0[24]
/// )
/// ```
pub(crate) fn parse(ptx: &str) -> Vec<Entry> {
    ptx.split(".entry").skip(1).filter_map(entry).collect()
}

fn entry(text: &str) -> Option<Entry> {
    let name_end = text.find(|c: char| c == '(' || c == '{' || (c.is_whitespace() && c != ' '))?;
    let name = text[..name_end].trim().to_owned();
    let params = match text[name_end..].trim_start().strip_prefix('(') {
        Some(list) => list[..list.find(')')?].split(".param").skip(1).map(bytes).collect::<Option<_>>()?,
        None => Vec::new(),
    };
    Some(Entry { name, params })
}

/// Size of `.align 8 .b8 name[24]`, or of a scalar such as `.u64 name`.
fn bytes(param: &str) -> Option<usize> {
    if let Some((_, rest)) = param.split_once('[') {
        return rest.split(']').next()?.trim().parse().ok();
    }
    let kind =
        param.split_whitespace().find(|word| word.starts_with('.') && word.ends_with(char::is_numeric))?;
    let bits: usize = kind.trim_start_matches(|c: char| !c.is_ascii_digit()).parse().ok()?;
    Some(bits / 8)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_entry_is_found_with_the_sizes_of_its_parameters() {
        let ptx = "
.version 9.0
.visible .entry scale(
	.param .align 8 .b8 scale_param_0[24]
)
.maxntid 128
{ ret; }
.entry two(
	.param .u64 two_param_0,
	.param .f32 two_param_1
)
{ ret; }
.visible .entry none()
{ ret; }
";
        let entry = |name: &str, params: &[usize]| Entry { name: name.to_owned(), params: params.to_vec() };
        assert_eq!(parse(ptx), [entry("scale", &[24]), entry("two", &[8, 4]), entry("none", &[])]);
    }
}
