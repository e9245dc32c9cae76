use ciphertune_gauss::Entropy;
use ciphertune_round::{Context, Digest, ShareIndex, label};

use crate::contribute::seat_at;
use crate::one_time_key::Binding;
use crate::secret::SecretBlock;
use crate::{Error, OneTimeKey, Result, SealingKey};

/// σ_j = Σ_{i∈U} share_{i→j}: member j's Shamir share of the sum of the keys.
///
/// Fewer than t of them say nothing about any key; t of them give the sum and nothing else.
pub struct KeySumShare {
    pub(crate) words: SecretBlock,
}

/// Opens the shares that the contributors of a roster sealed to `recipient` and adds them.
///
/// `sealed` names every contributor of the roster once, with what it sealed. To be called only
/// after t echoes of that roster are in.
///
/// # Errors
/// [`Error::Misuse`] when there is none or a sender is named twice; [`Error::Malformed`] when a
/// share has the wrong length or a word that is not below q; [`Error::Failed`] with
/// [`Check::Sealed`](crate::Check::Sealed) when one does not open (altered, or for another
/// member, sender or context).
pub fn sum_shares(
    key: &OneTimeKey,
    context: &Context,
    recipient: ShareIndex,
    sealed: &[(ShareIndex, Vec<u8>)],
) -> Result<KeySumShare> {
    if sealed.is_empty() {
        return Err(Error::Misuse("no shares to add".into()));
    }
    refuse_duplicates(sealed.iter().map(|(sender, _)| *sender))?;
    let mut words = SecretBlock::zero();
    for (sender, sealed) in sealed {
        let binding = Binding {
            label: label::SEAL_SHARE,
            context,
            roster: None,
            sender: *sender,
            recipient,
        };
        let share = key.open(&binding, sealed)?;
        ciphertune_sum::add_assign(words.expose_mut(), share.expose());
    }
    Ok(KeySumShare { words })
}

impl KeySumShare {
    /// Seals this share to every seat (its own too), bound to one roster.
    ///
    /// # Errors
    /// [`Error::Fault`] when the operating system gives no entropy; [`Error::Misuse`] for more
    /// seats than a cohort has.
    pub fn seal_to(
        &self,
        context: &Context,
        roster: &Digest,
        sender: ShareIndex,
        seats: &[SealingKey],
    ) -> Result<Vec<Vec<u8>>> {
        let place = sender.get().to_le_bytes();
        let mut entropy = Entropy::hedged(&[context.as_bytes(), roster.as_bytes(), &place])?;
        let seal = |(position, seat): (usize, &SealingKey)| {
            let binding = binding(context, roster, sender, seat_at(position)?);
            seat.seal(&binding, &self.words, &mut entropy)
        };
        seats.iter().enumerate().map(seal).collect()
    }

    /// Opens the share that `sender` sealed to `recipient`, for
    /// [`KeySum::rebuild`](crate::KeySum::rebuild). The sender is the authenticated one: its seat
    /// is the point.
    ///
    /// # Errors
    /// [`Error::Malformed`] when the length is wrong or a word not below q; [`Error::Failed`]
    /// with [`Check::Sealed`](crate::Check::Sealed) when it does not open.
    pub fn open(
        key: &OneTimeKey,
        context: &Context,
        roster: &Digest,
        sender: ShareIndex,
        recipient: ShareIndex,
        sealed: &[u8],
    ) -> Result<(ShareIndex, Self)> {
        let words = key.open(&binding(context, roster, sender, recipient), sealed)?;
        Ok((sender, Self { words }))
    }
}

fn binding<'a>(
    context: &'a Context,
    roster: &'a Digest,
    sender: ShareIndex,
    recipient: ShareIndex,
) -> Binding<'a> {
    Binding {
        label: label::SEAL_KEY_SUM,
        context,
        roster: Some(roster),
        sender,
        recipient,
    }
}

/// Misuse when a seat is named twice.
pub(crate) fn refuse_duplicates(seats: impl Iterator<Item = ShareIndex>) -> Result<()> {
    let mut seen = std::collections::BTreeSet::new();
    for seat in seats {
        if !seen.insert(seat) {
            return Err(Error::Misuse(format!("seat {seat} is named twice")));
        }
    }
    Ok(())
}
