//! The committee of a round: the members that hold shares, drawn from those of the manifest by a hash.
//!
//! Members are ranked by SHA-256(label ‖ 0x00 ‖ job ‖ model ‖ fingerprint), the job's digest, the model that the round
//! starts from as the plan names it, and each member's fingerprint; the first k are drawn. From round 2 on that model
//! is keyed by the sum of the keys of the round before: nobody knew it before that sum was opened. What the server picks
//! (cohort, attempt, one-time keys, nonce) is not in the hash, or it would try until its helpers are drawn; nor is the
//! manifest, whose issuer could try serial numbers and times for a new one in mid-job.

use crate::{
    digest::{Digest, Fingerprint, Hasher},
    label,
    plan::Plan,
    seat::{MAX_SEATS, Seat, ShareIndex},
};

/// A plan's committee.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Committee {
    /// k: how many members of the manifest are drawn.
    pub size: usize,
    /// The seats of those of them that are in the cohort, ascending; the others count as missing.
    pub holders: Vec<ShareIndex>,
}

impl Committee {
    /// The committee of `size` among `members`, all members of the manifest, for a cohort with these `seats`.
    pub fn draw(
        size: usize,
        job: &Digest,
        model: &Digest,
        members: &[Fingerprint],
        seats: &[Seat],
    ) -> Self {
        let drawn = draw(size, job, model, members);
        let holders = (0..)
            .map_while(|position| ShareIndex::at(position).ok())
            .zip(seats)
            .filter(|(_, seat)| drawn.contains(&seat.member))
            .map(|(index, _)| index)
            .collect();
        Self { size, holders }
    }
}

/// The first `size` of `members` by their rank, best first.
pub fn draw(
    size: usize,
    job: &Digest,
    model: &Digest,
    members: &[Fingerprint],
) -> Vec<Fingerprint> {
    let rank = |member: &Fingerprint| {
        let mut hasher = Hasher::default();
        for part in [
            label::COMMITTEE.as_bytes(),
            &[0],
            job.as_bytes(),
            model.as_bytes(),
            member.as_bytes(),
        ] {
            hasher.update(part);
        }
        hasher.finish()
    };
    let mut ranked: Vec<(Digest, Fingerprint)> = members
        .iter()
        .map(|member| (rank(member), *member))
        .collect();
    ranked.sort_unstable();
    ranked.dedup();
    ranked
        .into_iter()
        .take(size)
        .map(|(_, member)| member)
        .collect()
}

impl Plan {
    /// The seats that hold shares, ascending: those of the committee, or all.
    pub fn holders(&self) -> impl Iterator<Item = ShareIndex> + '_ {
        let committee = self.committee.as_ref();
        let drawn = committee.into_iter().flat_map(|drawn| &drawn.holders);
        let all = if committee.is_some() {
            0
        } else {
            self.seats.len().min(MAX_SEATS)
        };
        let all = (0..all).filter_map(|position| ShareIndex::at(position).ok());
        drawn.copied().chain(all)
    }

    /// Where a seat stands among those that hold shares, from 0: the place of its share in what others seal; `None` for a
    /// seat that holds none.
    pub fn place_of(&self, seat: ShareIndex) -> Option<usize> {
        self.holders().position(|holder| holder == seat)
    }

    /// Whether a member has a seat that holds shares.
    pub fn is_holder(&self, member: &Fingerprint) -> bool {
        self.seat_of(member)
            .is_some_and(|seat| self.place_of(seat).is_some())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn members(count: u8) -> Vec<Fingerprint> {
        (0..count)
            .map(|member| Fingerprint::from_digest(Digest::sha256(&[member])))
            .collect()
    }

    /// Worked out with Python's hashlib: SHA-256 of bytes([i]) as fingerprints, of b"job" and b"model".
    #[test]
    fn the_draw_is_the_one_worked_out_elsewhere() {
        let (job, model) = (Digest::sha256(b"job"), Digest::sha256(b"model"));
        let members = members(20);
        let drawn = draw(6, &job, &model, &members);
        let places: Vec<usize> = drawn
            .iter()
            .filter_map(|one| members.iter().position(|member| member == one))
            .collect();
        assert_eq!(places, EXPECTED);
    }

    const EXPECTED: [usize; 6] = [12, 15, 17, 1, 10, 8];

    #[test]
    fn the_draw_depends_on_job_model_and_members_and_not_on_their_order() {
        let (job, model) = (Digest::sha256(b"job"), Digest::sha256(b"model"));
        let mut members = members(40);
        let drawn = draw(10, &job, &model, &members);
        assert_ne!(draw(10, &model, &model, &members), drawn);
        assert_ne!(draw(10, &job, &job, &members), drawn);
        members.reverse();
        assert_eq!(draw(10, &job, &model, &members), drawn);
        // The larger committee holds the smaller.
        assert_eq!(draw(11, &job, &model, &members)[..10], drawn);
        // A member named twice is drawn once.
        let twice = [members.as_slice(), &members].concat();
        assert_eq!(draw(10, &job, &model, &twice), drawn);
        members.retain(|member| *member != drawn[3]);
        let without = draw(10, &job, &model, &members);
        assert!(!without.contains(&drawn[3]));
        assert_eq!(without[..3], drawn[..3]);
        assert_eq!(without[3..9], drawn[4..]);
    }

    /// Each member is drawn as often as any other, within six standard deviations of 2,000 draws.
    #[test]
    fn every_member_is_drawn_as_often_as_any_other() {
        let (job, members) = (Digest::sha256(b"job"), members(30));
        let mut times = vec![0_i32; members.len()];
        for round in 0..2_000_u32 {
            let model = Digest::sha256(&round.to_le_bytes());
            for one in draw(10, &job, &model, &members) {
                let place = members.iter().position(|member| *member == one);
                times[place.unwrap()] += 1;
            }
        }
        // 2,000 · 1/3 ± 6·√(2,000 · 1/3 · 2/3)
        assert!(
            times.iter().all(|times| (times - 667).abs() < 127),
            "{times:?}"
        );
    }
}
