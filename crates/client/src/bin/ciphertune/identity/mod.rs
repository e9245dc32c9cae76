//! `ciphertune identity`: keys made at home, certificates from the authority, kits, revocation.

mod authority;
pub mod party;
mod show;

use std::process::ExitCode;

use ciphertune_client::Result;
use clap::Subcommand;

use crate::Common;

/// Subcommands of `ciphertune identity`.
#[derive(Subcommand)]
pub enum Command {
    /// Make a key in this home, encrypted under a pass-phrase; with --authority, a federation's authority.
    Init(party::Init),
    /// Ask the authority for a certificate: one file with name, role and public key, signed by the key of this home.
    Request(party::Request),
    /// Put a kit from the authority into this home.
    Install(party::Install),
    /// Authority: show a request and issue a certificate for its name and key.
    Approve(authority::Approve),
    /// Authority: sign the list of all parties whose certificates are not revoked.
    IssueManifest(authority::IssueManifest),
    /// Authority: pack what a party takes home. It holds no secret.
    Kit(authority::Kit),
    /// Authority: issue a new certificate for a party's same key.
    Renew(authority::Renew),
    /// Authority: revoke a party's certificates.
    Revoke(authority::Revoke),
    /// Authority: issue the next revocation list, before the last one ends.
    Crl(authority::Crl),
    /// What is in a certificate, request, manifest, revocation list, key file or kit; in this home, if no file is given.
    Show(show::Show),
}

impl Command {
    pub fn run(self, common: &Common) -> Result<ExitCode> {
        match self {
            Self::Init(command) => command.run(common)?,
            Self::Request(command) => command.run(common)?,
            Self::Install(command) => command.run(common)?,
            Self::Approve(command) => command.run(common)?,
            Self::IssueManifest(command) => command.run(common)?,
            Self::Kit(command) => command.run(common)?,
            Self::Renew(command) => command.run(common)?,
            Self::Revoke(command) => command.run(common)?,
            Self::Crl(command) => command.run(common)?,
            Self::Show(command) => return command.run(common),
        }
        Ok(ExitCode::SUCCESS)
    }
}
