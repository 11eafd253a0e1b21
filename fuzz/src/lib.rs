//! What the targets share: the generators and checks that the tests of `ferromq-protocol` and `ferromq-store` use, too.

#[path = "../../crates/protocol/tests/generate/choices.rs"]
pub mod choices;
#[path = "../../crates/protocol/tests/generate/mod.rs"]
pub mod generate;
#[path = "../../crates/store/tests/generate/mod.rs"]
pub mod stores;

use generate::Choices;

/// Calls `check` with the input itself, or with what `make` builds of it and then damages. The first byte decides.
pub fn raw_or_damaged(data: &[u8], make: impl Fn(&mut Choices<'_>) -> Vec<u8>, check: impl Fn(&[u8])) {
    let Some((first, rest)) = data.split_first() else { return };
    if first % 4 == 0 {
        return check(rest);
    }
    let mut choices = Choices(rest);
    let mut bytes = make(&mut choices);
    if first % 4 != 1 {
        generate::damage(&mut choices, &mut bytes);
    }
    check(&bytes);
}
