//! One upload at a time for each body: the newest connection wins.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
};

use ciphertune_round::{Context, Fingerprint};
use ciphertune_wire::Refusal;
use tokio::sync::{OwnedMutexGuard, watch};

use crate::error::Refused;

/// Uploads under way.
#[derive(Default)]
pub struct Uploads(Mutex<HashMap<(Context, Fingerprint), Arc<Slot>>>);

struct Slot {
    writing: Arc<tokio::sync::Mutex<()>>,
    newest: watch::Sender<u64>,
}

/// The right to write to a body until somebody newer comes.
pub struct Turn {
    own: u64,
    newest: watch::Receiver<u64>,
    _writing: OwnedMutexGuard<()>,
}

impl Uploads {
    /// Waits for an older connection of the same member, which gives way, and takes its turn; one that waits gives way, too.
    ///
    /// # Errors
    /// `Conflict` when a newer one came meanwhile.
    pub async fn enter(&self, context: Context, member: Fingerprint) -> Result<Turn, Refused> {
        let slot = {
            let mut slots = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            // Nobody holds a slot but this map: its upload is over.
            slots.retain(|_, slot| {
                Arc::strong_count(slot) > 1 || Arc::strong_count(&slot.writing) > 1
            });
            let slot = slots.entry((context, member)).or_insert_with(|| {
                Arc::new(Slot {
                    writing: Arc::default(),
                    newest: watch::channel(0).0,
                })
            });
            Arc::clone(slot)
        };
        let mut own = 0;
        slot.newest.send_modify(|newest| {
            *newest += 1;
            own = *newest;
        });
        let mut newest = slot.newest.subscribe();
        let writing = tokio::select! {
            biased;
            writing = Arc::clone(&slot.writing).lock_owned() => writing,
            _ = newest.wait_for(|newest| *newest > own) => {
                return Err(Refused::new(Refusal::Conflict, "a newer connection took over"));
            }
        };
        Ok(Turn {
            own,
            newest,
            _writing: writing,
        })
    }
}

impl Turn {
    /// Ready when somebody newer has come.
    pub async fn superseded(&mut self) {
        let own = self.own;
        if self.newest.wait_for(|newest| *newest > own).await.is_err() {
            std::future::pending().await
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ciphertune_round::Digest;

    #[tokio::test]
    async fn an_older_upload_gives_way_to_a_newer_one() {
        let uploads = Arc::new(Uploads::default());
        let context = Context::of_plan(b"plan");
        let member = Fingerprint::from_digest(Digest::sha256(b"north"));
        let mut old = uploads.enter(context, member).await.unwrap();
        let newer = tokio::spawn({
            let uploads = Arc::clone(&uploads);
            async move { uploads.enter(context, member).await.unwrap().own }
        });
        old.superseded().await;
        drop(old);
        assert_eq!(newer.await.unwrap(), 2);
    }
}
