//! Blocks spread over threads.

use std::{num::NonZeroUsize, sync::mpsc::sync_channel};

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

/// Tasks that wait at each of several workers while it is busy.
const WAITING: usize = 1;

/// Has every task that `next` gives worked on, and hands over what comes of them on this thread, in the order of the
/// tasks. `next` is given the last result that was done with, for its memory.
///
/// Several workers have a thread each, which lives until the end, and take turns; this thread is up to two tasks a worker
/// ahead of the results. One worker alone works on this thread.
pub(crate) fn in_order<W: Send, T: Send, R: Send>(
    workers: &mut [W],
    mut next: impl FnMut(Option<R>) -> Result<Option<T>>,
    work: impl Fn(&mut W, T) -> Result<R> + Sync,
    mut done: impl FnMut(&R) -> Result<()>,
) -> Result<()> {
    if let [worker] = workers {
        let mut spare = None;
        while let Some(task) = next(spare.take())? {
            let result = work(worker, task)?;
            done(&result)?;
            spare = Some(result);
        }
        return Ok(());
    }
    let panicked = |_| Error::Fault("a worker thread panicked".into());
    std::thread::scope(|scope| {
        let work = &work;
        let mut desks = Vec::with_capacity(workers.len());
        let mut running = Vec::with_capacity(workers.len());
        for worker in workers {
            let (give, tasks) = sync_channel::<T>(WAITING);
            let (results, take) = sync_channel(WAITING + 1);
            desks.push((give, take));
            running.push(scope.spawn(move || {
                for task in tasks {
                    if results.send(work(worker, task)).is_err() {
                        return;
                    }
                }
            }));
        }
        let mut deal = || {
            let ahead = desks.len() * (WAITING + 1);
            let mut finish = |number: usize| -> Result<R> {
                let (_, take) = &desks[number % desks.len()];
                let result = take.recv().map_err(|_| panicked(()))??;
                done(&result)?;
                Ok(result)
            };
            let (mut dealt, mut finished) = (0, 0);
            loop {
                let spare = (dealt - finished == ahead)
                    .then(|| finish(finished))
                    .transpose()?;
                finished += usize::from(spare.is_some());
                let Some(task) = next(spare)? else { break };
                let (give, _) = &desks[dealt % desks.len()];
                give.send(task).map_err(|_| panicked(()))?;
                dealt += 1;
            }
            (finished..dealt).try_for_each(|number| finish(number).map(drop))
        };
        let dealt = deal();
        drop(desks);
        // All are joined, whatever came of it: the scope itself panics for one that panicked and was not.
        running
            .into_iter()
            .map(|thread| thread.join().map_err(|_| panicked(())))
            .fold(dealt, Result::and)
    })
}

/// Reads `blocks` blocks and gives them to the workers: the number of the first, their bytes, and the next of
/// `places`, one for every [`blocks_each`] blocks.
pub(crate) fn read_through<W: Send, P: Send>(
    workers: &mut [W],
    blocks: usize,
    mut read: impl FnMut(&mut [u8]) -> Result<()>,
    mut places: impl Iterator<Item = P>,
    work: impl Fn(&mut W, usize, &[u8], P) -> Result<()> + Sync,
) -> Result<()> {
    let each = blocks_each(workers.len());
    let mut batches = (0..blocks).step_by(each);
    in_order(
        workers,
        |spare: Option<Vec<u8>>| {
            let Some((first, place)) = batches.next().zip(places.next()) else {
                return Ok(None);
            };
            let mut bytes = spare.unwrap_or_default();
            bytes.resize(each.min(blocks - first) * BLOCK_BYTES, 0);
            read(&mut bytes)?;
            Ok(Some((first, bytes, place)))
        },
        |worker, (first, bytes, place)| {
            work(worker, first, &bytes, place)?;
            Ok(bytes)
        },
        |_| Ok(()),
    )
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
