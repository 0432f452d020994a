//! How long anti-entropy rests between two steps, so that requests of clients come first.

/// Rest for each millisecond of work while clients are served: a fifth of the time is left for this work.
const BUSY_FACTOR: u64 = 4;
/// Longest rest.
const REST_MAX_MS: u64 = 2_000;

/// The rest after a step that took `took_ms`. `served` requests of clients came in meanwhile: with none
/// there is nobody to yield to.
pub fn rest_ms(took_ms: u64, served: u64) -> u64 {
    match served {
        0 => 0,
        _ => took_ms.max(1).saturating_mul(BUSY_FACTOR).min(REST_MAX_MS),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_rests_only_beside_clients_and_never_long() {
        assert_eq!(rest_ms(100, 0), 0);
        assert_eq!(rest_ms(0, 1), 4);
        assert_eq!(rest_ms(100, 9), 400);
        assert_eq!(rest_ms(u64::MAX, 1), REST_MAX_MS);
    }
}
