//! The catalogue, `kernels/README.md`, tells what kernels use and do: the cards in it are held by those tests that find it
//! out anyway.

use longhand_gpu::nvrtc::{PINNED_WHEEL, locate};
use longhand_verify::{Op, cards};

const CATALOGUE: &str = include_str!("../../kernels/README.md");

/// Another NVRTC makes other code: what is counted or kept of it holds for one alone. Says so where it is not that one.
pub fn is_pinned_nvrtc() -> bool {
    let pinned = locate().is_ok_and(|found| PINNED_WHEEL.contains(&format!("=={}.", found.version)));
    if !pinned {
        println!("skipped: counts and cards are those of {PINNED_WHEEL}");
    }
    pinned
}

/// Fails unless the cards of the operation have this table.
pub fn assert_has(op: Op, table: &str) {
    let name = op.name();
    let Some(card) = cards::card_in(CATALOGUE, op) else {
        panic!("kernels/README.md has no section of {name} with a place for its cards");
    };
    assert!(
        card.split("\n\n").any(|known| known.trim_end() == table.trim_end()),
        "the cards of {name} in kernels/README.md are not true any more; to write them anew:\n\
         cargo run -- kernels list --cards --update kernels/README.md\n\
         They have\n{card}\nwhere it is\n{table}"
    );
}
