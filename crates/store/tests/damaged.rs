//! Damaged stores from seeds; the target `stores` in `fuzz/` searches with the same check. A failure prints its seed;
//! `SEED=n` runs that one again.

#[path = "../../protocol/tests/generate/choices.rs"]
mod choices;
mod generate;

/// Bytes that follow from a seed.
fn bytes(seed: u64) -> Vec<u8> {
    let mut state = seed;
    let next = |_| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 56) as u8
    };
    (0..64).map(next).collect()
}

#[test]
fn a_damaged_store_is_opened_with_all_that_its_log_has() {
    let number = |name| std::env::var(name).ok().and_then(|text| text.parse::<u64>().ok());
    let (first, count) = number("SEED").map_or((1, number("FERROMQ_DAMAGED_STORES").unwrap_or(150)), |seed| (seed, 1));
    let failed: Vec<u64> = (first..first + count)
        .filter(|seed| std::panic::catch_unwind(|| generate::check(&bytes(*seed))).is_err())
        .collect();
    assert!(failed.is_empty(), "seeds {failed:?}");
}
