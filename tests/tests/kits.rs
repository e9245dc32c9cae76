//! A kit takes the place of an earlier one only where it loosens nothing, and a refused one leaves the home as it was.

use std::{collections::BTreeMap, fs, path::PathBuf, time::SystemTime};

use ciphertune_client::{Error, site::Site};
use ciphertune_identity::{Credentials, Home, Kit, Manifest, Request, Role};
use ciphertune_policy::Policy;
use ciphertune_round::{Envelope, PolicyDocument, Signed};
use ciphertune_tests::{
    federation::{Federation, INSTITUTION, LABORATORY, RECORD, changed},
    keys::{passphrase, validity},
};

/// Every file of a home that a kit writes, with its bytes.
fn files(home: &Home) -> BTreeMap<PathBuf, Vec<u8>> {
    let of_policies = fs::read_dir(home.policy()).unwrap();
    let policies = of_policies.map(|entry| entry.unwrap().path());
    let others = [home.authority(), home.certificate(), home.manifest()];
    let each = others.into_iter().chain(policies);
    each.map(|path| (path.clone(), fs::read(path).unwrap()))
        .collect()
}

/// Installs a kit that is to be refused: why, the home being as it was.
fn refused(home: &Home, kit: &Kit, own: Option<&Envelope>) -> String {
    let before = files(home);
    let Err(Error::Refused(why)) = Site::install(home, &passphrase(), kit, own) else {
        panic!("a kit that must be refused");
    };
    assert_eq!(files(home), before);
    Site::open(home.clone(), &passphrase()).unwrap();
    why
}

#[tokio::test]
async fn a_home_takes_a_stricter_policy_and_no_weaker_one() {
    let federation = Federation::found(3, RECORD).await;
    let home = &federation.member(0).home;
    let strict = changed(RECORD, "epsilon = \"8\"", "epsilon = \"4\"");
    let kit = |toml: &str| federation.kit(0, federation.sign_policy(toml));

    Site::install(home, &passphrase(), &kit(&strict), None).unwrap();
    let held = Site::policy_of(home).unwrap();
    assert_eq!(held, Policy::parse(&strict).unwrap());
    Site::install(home, &passphrase(), &kit(&strict), None).unwrap();

    // What an officer signed once may be weaker than what holds now.
    let why = refused(home, &kit(RECORD), None);
    assert!(
        why.contains("privacy.epsilon") && why.contains("weaker"),
        "{why}"
    );
    let policy = home.policy().join("federation.policy");
    assert!(
        why.contains(&format!("move {} away", policy.display())),
        "{why}"
    );
    refused(home, &kit(LABORATORY), None);
    refused(home, &kit(INSTITUTION), None);

    let meant = kit(RECORD);
    fs::remove_file(&policy).unwrap();
    Site::install(home, &passphrase(), &meant, None).unwrap();
    assert_eq!(
        Site::policy_of(home).unwrap(),
        Policy::parse(RECORD).unwrap()
    );
}

#[tokio::test]
async fn a_kit_of_another_authority_or_with_an_older_manifest_is_refused() {
    let (ours, theirs) = (
        Federation::found(3, RECORD).await,
        Federation::found(3, RECORD).await,
    );
    let home = &ours.member(0).home;
    // Theirs lists our very member, under a certificate of its own authority.
    let stranger = {
        let mut kit = theirs.kit(0, theirs.sign_policy(RECORD));
        let member = ours.member(0);
        let request = Request::new(&member.party.name, &member.key()).unwrap();
        let issued = theirs
            .authority()
            .issue(&request, Role::Member, &[], validity(90));
        let credentials = theirs.credentials_of(theirs.member(0));
        kit.credentials = Credentials::new(
            credentials.authority().clone(),
            issued.unwrap(),
            credentials.revocations().clone(),
        )
        .unwrap();
        let manifest = theirs.site(0).manifest().value().clone();
        let mut parties = manifest.parties().to_vec();
        let place = parties
            .iter()
            .position(|it| it.name == member.party.name)
            .unwrap();
        parties[place] = ours.member(0).party.clone();
        let federation = manifest.federation().clone();
        let endpoint = manifest.endpoint().clone();
        let manifest = Manifest::new(federation, 2, SystemTime::now(), parties, endpoint).unwrap();
        kit.manifest = theirs
            .authority()
            .sign_manifest(manifest)
            .unwrap()
            .envelope()
            .clone();
        kit
    };
    let why = refused(home, &stranger, None);
    assert!(
        why.contains("another authority") && why.contains("a home of its own"),
        "{why}"
    );

    let older = ours.kit(0, ours.sign_policy(RECORD));
    let manifest = ours.site(0).manifest().value().clone();
    let newer = Manifest::new(
        manifest.federation().clone(),
        2,
        SystemTime::now(),
        manifest.parties().to_vec(),
        manifest.endpoint().clone(),
    );
    let newer = ours.authority().sign_manifest(newer.unwrap()).unwrap();
    let kit = Kit {
        manifest: newer.envelope().clone(),
        ..ours.kit(0, ours.sign_policy(RECORD))
    };
    Site::install(home, &passphrase(), &kit, None).unwrap();
    let why = refused(home, &older, None);
    assert!(
        why.contains("manifest 1") && why.contains("manifest 2"),
        "{why}"
    );
}

#[tokio::test]
async fn policies_that_nobody_may_sign_or_that_cannot_hold_together_leave_the_home_as_it_was() {
    let federation = Federation::found(3, RECORD).await;
    let home = &federation.member(0).home;
    let document = PolicyDocument {
        federation: federation.site(0).manifest().federation().to_string(),
        toml: RECORD.into(),
    };
    let forged = Signed::sign(document, &federation.server_key());
    refused(home, &federation.kit(0, forged.envelope().clone()), None);

    let kit = federation.kit(0, federation.sign_policy(RECORD));
    let other_unit = federation.sign_policy(INSTITUTION);
    let before = files(home);
    let error = Site::install(home, &passphrase(), &kit, Some(&other_unit)).unwrap_err();
    assert!(error.to_string().contains("privacy.unit"), "{error}");
    assert_eq!(files(home), before);
}

#[tokio::test]
async fn a_policy_that_nobody_may_change_stays_until_there_is_another_manifest() {
    let fixed = format!("{RECORD}[roles]\nchange_policy = []\n");
    let federation = Federation::found(3, &fixed).await;
    let home = &federation.member(0).home;
    let kit = |toml: &str| federation.kit(0, federation.sign_policy(toml));
    // A stricter one, which would be taken otherwise.
    let stricter = changed(&fixed, "epsilon = \"8\"", "epsilon = \"4\"");
    let why = refused(home, &kit(&stricter), None);
    assert!(
        why.contains("roles.change_policy")
            && why.contains("issue-manifest") | why.contains("have the authority issue one"),
        "{why}"
    );
    Site::install(home, &passphrase(), &kit(&fixed), None).unwrap();
}
