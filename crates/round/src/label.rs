//! Every label under which something is hashed, signed, derived or sealed: one file, so that no two meanings share one.

/// A label: digests and signatures are over `label ‖ 0x00 ‖ bytes`.
pub type Label = &'static str;

/// The manifest, signed by the authority.
pub const MANIFEST: Label = "ciphertune/1/manifest";
/// A request for a certificate, signed by the key that it names.
pub const REQUEST: Label = "ciphertune/1/request";
/// A policy document, signed by an officer.
pub const POLICY: Label = "ciphertune/1/policy";
/// A job, signed by a researcher.
pub const JOB: Label = "ciphertune/1/job";
/// A member's answer to a job.
pub const ADMISSION: Label = "ciphertune/1/admission";
/// The public half of a one-time sealing key.
pub const ONE_TIME_KEY: Label = "ciphertune/1/one-time-key";
/// A plan, signed by the server.
pub const PLAN: Label = "ciphertune/1/plan";
/// The context of a plan.
pub const CONTEXT: Label = "ciphertune/1/context";
/// The draw of a committee.
pub const COMMITTEE: Label = "ciphertune/1/committee";
/// A contribution's header.
pub const HEADER: Label = "ciphertune/1/header";
/// A roster, signed by the server.
pub const ROSTER: Label = "ciphertune/1/roster";
/// An echo of a roster.
pub const ECHO: Label = "ciphertune/1/echo";
/// A release for a roster.
pub const RELEASE: Label = "ciphertune/1/release";
/// An agreement on the new model.
pub const AGREEMENT: Label = "ciphertune/1/agreement";
/// The end of an attempt without a model, signed by the server.
pub const VOID: Label = "ciphertune/1/void";
/// The end of a job, signed by the server.
pub const ENDED: Label = "ciphertune/1/ended";
/// A request to stop a job.
pub const ABORT: Label = "ciphertune/1/abort";
/// A request for a model that its member missed.
pub const PARCEL_REQUEST: Label = "ciphertune/1/parcel-request";
/// A call on a member to seal a model to another.
pub const PARCEL_CALL: Label = "ciphertune/1/parcel-call";
/// A model sealed from member to member.
pub const PARCEL: Label = "ciphertune/1/parcel";
/// The digest of a model's parameters.
pub const MODEL: Label = "ciphertune/1/model";
/// HKDF salt for mask words.
pub const MASK: Label = "ciphertune/1/mask";
/// HKDF salt for check words.
pub const CHECK: Label = "ciphertune/1/check";
/// HKDF salt for the agreement's key.
pub const AGREE: Label = "ciphertune/1/agree";
/// HPKE info for a share of one member's key.
pub const SEAL_SHARE: Label = "ciphertune/1/seal-share";
/// HPKE info for a share of the key sum.
pub const SEAL_KEY_SUM: Label = "ciphertune/1/seal-key-sum";
/// HPKE info for a model that is sent from member to member.
pub const SEAL_PARCEL: Label = "ciphertune/1/seal-parcel";
/// HKDF salt that hedges a contribution's entropy.
pub const HEDGE: Label = "ciphertune/1/hedge";

/// `label ‖ 0x00 ‖ bytes`: what is hashed and signed.
pub fn labelled(label: Label, bytes: &[u8]) -> Vec<u8> {
    [label.as_bytes(), &[0], bytes].concat()
}

#[cfg(test)]
mod tests {
    #[test]
    fn no_two_meanings_share_a_label() {
        let source = include_str!("label.rs");
        let mut labels: Vec<&str> = source
            .lines()
            .filter(|line| line.starts_with("pub const"))
            .filter_map(|line| line.split('"').nth(1))
            .collect();
        let all = labels.len();
        labels.sort_unstable();
        labels.dedup();
        assert!(all > 20);
        assert_eq!(labels.len(), all);
    }
}
