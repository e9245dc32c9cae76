//! Blocks spread over threads.

use std::num::NonZeroUsize;

use ciphertune_sum::BLOCK_BYTES;

use crate::{Error, Result};

/// Blocks that one of several threads is given at a time: half a millisecond's work or more.
pub(crate) const BATCH: usize = 8;

/// How many of `threads` get a batch of so many blocks; at least one.
pub(crate) fn of_use(threads: NonZeroUsize, blocks: usize) -> usize {
    threads.get().min(blocks.div_ceil(BATCH)).max(1)
}

/// Blocks that each of so many workers is given at a time. One alone has nobody to wait for, and keeps its block in
/// the cache.
pub(crate) fn blocks_each(workers: usize) -> usize {
    if workers == 1 { 1 } else { BATCH }
}

/// Gives each worker one of the parts, does `meanwhile` on this thread, and waits for all of them.
pub(crate) fn side_by_side<W: Send, P: Send>(
    workers: &mut [W],
    parts: impl Iterator<Item = P>,
    work: impl Fn(&mut W, P) -> Result<()> + Sync,
    meanwhile: impl FnOnce() -> Result<()>,
) -> Result<()> {
    std::thread::scope(|scope| {
        let work = &work;
        let running: Vec<_> = workers
            .iter_mut()
            .zip(parts)
            .map(|(worker, part)| scope.spawn(move || work(worker, part)))
            .collect();
        let meanwhile = meanwhile();
        // All are joined, whatever the first one says: the scope itself panics for one that panicked and was not.
        let done = running.into_iter().map(|thread| {
            thread
                .join()
                .map_err(|_| Error::Fault("a worker thread panicked".into()))?
        });
        let done = done.fold(Ok(()), Result::and);
        meanwhile.and(done)
    })
}

/// Reads `blocks` blocks and gives them to the workers: the number of the first, their bytes, and the next of
/// `places`, one for every [`blocks_each`] blocks.
///
/// While several workers are busy with a batch, this thread reads the batch after.
pub(crate) fn read_through<W: Send, P: Send>(
    workers: &mut [W],
    blocks: usize,
    mut read: impl FnMut(&mut [u8]) -> Result<()>,
    mut places: impl Iterator<Item = P>,
    work: impl Fn(&mut W, usize, &[u8], P) -> Result<()> + Sync,
) -> Result<()> {
    let each = blocks_each(workers.len());
    let per_batch = each * workers.len();
    let mut left = blocks;
    let mut read_batch = |bytes: &mut Vec<u8>| {
        let now = left.min(per_batch);
        left -= now;
        bytes.resize(now * BLOCK_BYTES, 0);
        read(bytes)
    };
    let (mut bytes, mut next) = (Vec::new(), Vec::new());
    read_batch(&mut bytes)?;
    for first in (0..blocks).step_by(per_batch) {
        if let [worker] = workers {
            if let Some(place) = places.next() {
                work(worker, first, &bytes, place)?;
            }
            read_batch(&mut bytes)?;
            continue;
        }
        let parts = (first..)
            .step_by(each)
            .zip(bytes.chunks(each * BLOCK_BYTES))
            .zip(&mut places);
        side_by_side(
            workers,
            parts,
            |worker, ((first, bytes), place)| work(worker, first, bytes, place),
            || read_batch(&mut next),
        )?;
        std::mem::swap(&mut bytes, &mut next);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_block_is_worked_on_once_with_its_own_bytes_and_place() {
        for (workers, blocks) in [(1, 1), (1, 5), (2, 16), (3, 24), (3, 27), (3, 50), (4, 7)] {
            let mut seen = vec![Vec::new(); workers];
            let mut read = 0;
            let mut places = vec![0; blocks];
            let each = blocks_each(workers);
            let mark = |bytes: &mut [u8]| {
                for block in bytes.chunks_exact_mut(BLOCK_BYTES) {
                    block[0] = read;
                    read += 1;
                }
                Ok(())
            };
            let work = |seen: &mut Vec<usize>, first: usize, bytes: &[u8], place: &mut [u8]| {
                assert_eq!(place.len(), bytes.len() / BLOCK_BYTES);
                for (at, (block, place)) in bytes.chunks(BLOCK_BYTES).zip(place).enumerate() {
                    assert_eq!(usize::from(block[0]), first + at);
                    *place += 1;
                    seen.push(first + at);
                }
                Ok(())
            };
            read_through(&mut seen, blocks, mark, places.chunks_mut(each), work).unwrap();
            assert!(places.iter().all(|count| *count == 1), "{places:?}");
            assert_eq!(usize::from(read), blocks);
            assert_eq!(seen.concat().len(), blocks);
        }
    }

    #[test]
    fn a_worker_that_fails_or_panics_and_a_source_that_fails_end_the_reading() {
        let fault = || Error::Fault("played".into());
        for workers in [1, 3] {
            let places = || std::iter::repeat(());
            let read = |failing: usize| {
                let mut calls = 0;
                move |_: &mut [u8]| {
                    calls += 1;
                    if calls == failing {
                        Err(fault())
                    } else {
                        Ok(())
                    }
                }
            };
            let mut idle = vec![(); workers];
            let fine = |_: &mut (), _, _: &[u8], ()| Ok(());
            for failing in [1, 2] {
                let done = read_through(&mut idle, 50, read(failing), places(), fine);
                assert!(matches!(done, Err(Error::Fault(_))));
            }
            let fails = |_: &mut (), first, _: &[u8], ()| {
                if first >= 16 { Err(fault()) } else { Ok(()) }
            };
            let done = read_through(&mut idle, 50, read(0), places(), fails);
            assert!(matches!(done, Err(Error::Fault(_))));
        }
        let panics = |_: &mut (), _, _: &[u8], ()| panic!("played");
        let done = read_through(&mut [(); 2], 50, |_| Ok(()), std::iter::repeat(()), panics);
        assert!(matches!(done, Err(Error::Fault(_))));
    }

    #[test]
    fn no_more_threads_are_used_than_there_are_batches() {
        let of = |threads, blocks| of_use(NonZeroUsize::new(threads).unwrap(), blocks);
        assert_eq!((of(64, 1), of(64, BATCH), of(64, BATCH + 1)), (1, 1, 2));
        assert_eq!((of(3, 1000), of(1, 1000), of(8, 0)), (3, 1, 1));
    }
}
