//! What each party may still do: a bucket of tokens that fills again, and a number of calls at once.
//!
//! Written here for its forty lines: a rate limiter from elsewhere would bring a dozen crates into the server's graph, and
//! count no calls under way.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Instant,
};

use crate::limits::{CALLS_AT_ONCE, REMEMBERED, TOKENS, TOKENS_A_SECOND};

/// Every party's, by certificate.
#[derive(Default)]
pub struct Allowances(Mutex<HashMap<Vec<u8>, Allowance>>);

struct Allowance {
    tokens: f64,
    at: Instant,
    under_way: usize,
}

impl Allowance {
    fn new(at: Instant) -> Self {
        Self {
            tokens: TOKENS.into(),
            at,
            under_way: 0,
        }
    }

    fn fill(&mut self, now: Instant) {
        let passed = now.saturating_duration_since(self.at).as_secs_f64();
        self.tokens = (self.tokens + passed * f64::from(TOKENS_A_SECOND)).min(TOKENS.into());
        self.at = now;
    }

    fn is_untouched(&self) -> bool {
        self.under_way == 0 && self.tokens >= TOKENS.into()
    }
}

impl Allowances {
    /// Lets a call of this cost in at `now`, or not. It is under way as long as what is returned lives.
    pub fn enter(
        self: &Arc<Self>,
        certificate: &[u8],
        cost: u32,
        now: Instant,
    ) -> Option<UnderWay> {
        let mut held = self.lock();
        if held.len() >= REMEMBERED && !held.contains_key(certificate) {
            held.values_mut().for_each(|one| one.fill(now));
            held.retain(|_, one| !one.is_untouched());
        }
        let one = held
            .entry(certificate.to_vec())
            .or_insert_with(|| Allowance::new(now));
        one.fill(now);
        if one.under_way >= CALLS_AT_ONCE || one.tokens < f64::from(cost) {
            return None;
        }
        one.tokens -= f64::from(cost);
        one.under_way += 1;
        Some(UnderWay {
            allowances: Arc::clone(self),
            certificate: certificate.to_vec(),
        })
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Vec<u8>, Allowance>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A call under way.
pub struct UnderWay {
    allowances: Arc<Allowances>,
    certificate: Vec<u8>,
}

impl Drop for UnderWay {
    fn drop(&mut self) {
        if let Some(one) = self.allowances.lock().get_mut(&self.certificate) {
            one.under_way -= 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn tokens_run_out_and_come_back_and_are_each_partys_own() {
        let (allowances, now) = (Arc::new(Allowances::default()), Instant::now());
        let calls = |who: &[u8], now| {
            (0..3 * TOKENS)
                .filter(|_| allowances.enter(who, 1, now).is_some())
                .count()
        };
        assert_eq!(calls(b"flood", now), TOKENS as usize);
        assert_eq!(calls(b"other", now), TOKENS as usize);
        let later = now + Duration::from_secs(2);
        assert_eq!(calls(b"flood", later), 2 * TOKENS_A_SECOND as usize);
        let much_later = now + Duration::from_secs(3_600);
        assert_eq!(calls(b"flood", much_later), TOKENS as usize, "and no more");
        assert!(allowances.enter(b"dear", TOKENS + 1, now).is_none());
    }

    #[test]
    fn so_many_calls_are_under_way_and_no_more() {
        let (allowances, now) = (Arc::new(Allowances::default()), Instant::now());
        let mut under_way: Vec<_> = (0..CALLS_AT_ONCE)
            .map(|_| allowances.enter(b"a", 1, now).unwrap())
            .collect();
        assert!(allowances.enter(b"a", 1, now).is_none());
        assert!(allowances.enter(b"b", 1, now).is_some());
        under_way.pop();
        assert!(allowances.enter(b"a", 1, now).is_some());
    }

    #[test]
    fn who_has_not_called_for_long_is_forgotten() {
        let (allowances, now) = (Arc::new(Allowances::default()), Instant::now());
        let stays = allowances.enter(b"stays", 1, now);
        for number in 0..3 * REMEMBERED as u64 {
            let now = now + Duration::from_millis(20 * number);
            allowances.enter(&number.to_le_bytes(), 1, now);
        }
        assert!(allowances.lock().len() <= REMEMBERED);
        assert!(allowances.lock().contains_key(b"stays".as_slice()));
        drop(stays);
    }
}
