//! Policy documents: what is read, what is complained about and where, and the bytes of the digest.

use ciphertune_policy::{
    Decimal, Instant, Policy, Role, Unit,
    schema::{self, Presence},
};
use sha2::{Digest as _, Sha256};

const GOOD: &str = r#"
schema = 1
name = "test"
[privacy]
unit = "institution"
adjacency = "zero-out"
epsilon = "8"
delta = "1e-5"
clip_norm = "1.0"
placement = "distributed"
rounds = 50
[budget]
epsilon = "16"
delta = "2e-5"
[aggregation]
min_contributors = 3
colluders = 1
[model]
backbones = ["any"]
encoders = ["mlp", "embedding"]
tasks = ["classification"]
[releases]
metrics = []
"#;

fn complaint(from: &str, to: &str) -> String {
    assert!(GOOD.contains(from), "{from}");
    Policy::parse(&GOOD.replacen(from, to, 1))
        .unwrap_err()
        .to_string()
}

#[test]
fn a_good_document_is_read() {
    let policy = Policy::parse(GOOD).unwrap();
    assert_eq!(policy.unit(), Unit::Institution);
    assert_eq!(policy.job_limit().unwrap().epsilon, Decimal::from(8));
    assert_eq!(policy.budget().unwrap().delta.to_string(), "2e-5");
    assert_eq!(
        (
            policy.min_contributors(),
            policy.colluders(),
            policy.threshold(),
            policy.committee(),
            policy.min_cohort()
        ),
        (3, 1, None, None, 3)
    );
    assert!(policy.encoders().allows("mlp") && !policy.encoders().allows("lstm"));
}

#[test]
fn canonical_json_is_the_stated_bytes() {
    let expected = concat!(
        r#"{"aggregation":{"colluders":"1","min_cohort":"3","min_contributors":"3"},"#,
        r#""budget":{"delta":"2e-5","epsilon":"16"},"#,
        r#""model":{"backbones":["any"],"encoders":["embedding","mlp"],"tasks":["classification"]},"#,
        r#""names":["test"],"#,
        r#""privacy":{"adjacency":"zero-out","clip_norm":"1","delta":"1e-5","epsilon":"8","placement":"distributed","rounds":"50","unit":"institution"},"#,
        r#""releases":{"metrics":[]},"schema":"1"}"#
    );
    let policy = Policy::parse(GOOD).unwrap();
    assert_eq!(policy.canonical_json(), expected);
    assert_eq!(policy.digest(), <[u8; 32]>::from(Sha256::digest(expected)));
}

#[test]
fn spelling_does_not_change_the_digest() {
    let respelled = GOOD
        .replace("\"1e-5\"", "\"0.000010\"")
        .replace("\"8\"", "\"8.0\"")
        .replace("\"mlp\", \"embedding\"", "\"embedding\", \"mlp\"");
    assert_ne!(respelled, GOOD);
    assert_eq!(
        Policy::parse(&respelled).unwrap().digest(),
        Policy::parse(GOOD).unwrap().digest()
    );
    let changed = GOOD.replace("rounds = 50", "rounds = 51");
    assert_ne!(
        Policy::parse(&changed).unwrap().digest(),
        Policy::parse(GOOD).unwrap().digest()
    );
}

#[test]
fn an_unknown_key_names_its_place_and_the_nearest_known_key() {
    let said = complaint("epsilon = \"8\"", "epsilom = \"8\"");
    assert!(said.contains("line 7, column 1: unknown key `epsilom` in [privacy]; the nearest known key is `epsilon`"), "{said}");
    let said = complaint("[releases]", "[release]");
    assert!(
        said.contains(
            "line 22, column 2: unknown key `release`; the nearest known key is `releases`"
        ),
        "{said}"
    );
    let said = complaint("name = \"test\"", "name = \"test\"\nrounds = 3");
    assert!(
        said.contains("line 4, column 1: unknown key `rounds`; `rounds` belongs in [privacy]"),
        "{said}"
    );
}

#[test]
fn a_number_where_an_exact_decimal_is_wanted_says_what_to_write() {
    let said = complaint("epsilon = \"8\"", "epsilon = 8.5");
    assert!(
        said.contains("line 7, column 11: privacy.epsilon: ")
            && said.contains("write epsilon = \"8.5\""),
        "{said}"
    );
    assert!(complaint("delta = \"1e-5\"", "delta = 1e-5").contains("write delta = \"1e-5\""));
    assert!(complaint("clip_norm = \"1.0\"", "clip_norm = 1").contains("write clip_norm = \"1\""));
}

#[test]
fn every_complaint_is_made_at_once_in_the_order_of_the_file() {
    let document = GOOD
        .replace("schema = 1", "schema = 2")
        .replace("colluders = 1", "colluders = 2")
        .replace("\"8\"", "\"0\"");
    let said = Policy::parse(&document).unwrap_err().to_string();
    let lines: Vec<&str> = said.lines().collect();
    assert_eq!(lines.len(), 3, "{said}");
    assert!(
        lines[0].starts_with("line 2, ")
            && lines[1].starts_with("line 7, ")
            && lines[2].starts_with("line 16, "),
        "{said}"
    );
}

#[test]
fn each_key_but_the_optional_ones_is_required() {
    for key in schema::KEYS
        .iter()
        .filter(|key| !matches!(key.presence, Presence::Optional(_)))
    {
        let mut section = "";
        let without: Vec<&str> = GOOD
            .lines()
            .filter(|line| {
                if line.starts_with('[') {
                    section = line.trim_matches(['[', ']']);
                }
                !(section == key.section && line.starts_with(&format!("{} =", key.name)))
            })
            .collect();
        let said = Policy::parse(&without.join("\n")).unwrap_err().to_string();
        assert!(
            said.contains(&format!("{}: missing", key.path())),
            "{}: {said}",
            key.path()
        );
    }
}

#[test]
fn values_that_mean_nothing_are_refused() {
    for (from, to, why) in [
        (
            "unit = \"institution\"",
            "unit = \"person\"",
            "is one of \"institution\", \"record\", \"none\"",
        ),
        ("delta = \"1e-5\"", "delta = \"1\"", "less than 1"),
        ("delta = \"1e-5\"", "delta = \"0\"", "more than 0"),
        ("clip_norm = \"1.0\"", "clip_norm = \"0\"", "more than 0"),
        (
            "clip_norm = \"1.0\"",
            "clip_norm = \"-1\"",
            "never negative",
        ),
        ("rounds = 50", "rounds = 0", "from 1 to 1000000"),
        ("rounds = 50", "rounds = \"50\"", "a whole number"),
        ("rounds = 50", "rounds = -1", "a whole number"),
        (
            "epsilon = \"16\"",
            "epsilon = \"7\"",
            "less than privacy.epsilon",
        ),
        (
            "delta = \"2e-5\"",
            "delta = \"1e-6\"",
            "less than privacy.delta",
        ),
        (
            "colluders = 1",
            "colluders = 2",
            "less than colluders + 2 = 4",
        ),
        (
            "colluders = 1",
            "colluders = 1\nmin_cohort = 2",
            "less than min_contributors",
        ),
        (
            "colluders = 1",
            "colluders = 1\ncommittee = 1",
            "aggregation.committee: a whole number from 2 to 1000 is wanted, not 1",
        ),
        ("backbones = [\"any\"]", "backbones = []", "allows nothing"),
        (
            "backbones = [\"any\"]",
            "backbones = [\"MiniLM\"]",
            "SHA-256",
        ),
        (
            "backbones = [\"any\"]",
            "backbones = \"any\"",
            "a list of strings",
        ),
        (
            "[\"mlp\", \"embedding\"]",
            "[\"mlp\", \"any\"]",
            "stands alone",
        ),
        (
            "metrics = []",
            "metrics = [\"loss\"]",
            "a metric is one of \"training-loss\", \"training-accuracy\"",
        ),
        (
            "rounds = 50",
            "rounds = 50\nmax_sampling_rate = \"0.1\"",
            "privacy.max_sampling_rate: must not be written: records are drawn into batches",
        ),
        (
            "tasks = [\"classification\"]",
            "tasks = [\"classification\"]\ndatasets = []",
            "model.datasets: an empty list allows nothing",
        ),
        (
            "[releases]",
            "[identity]\nmax_certificate_age_days = 0\n[releases]",
            "identity.max_certificate_age_days: a whole number from 1 to 3650 is wanted, not 0",
        ),
        (
            "[releases]",
            "[roles]\nsubmit_job = [\"king\"]\n[releases]",
            "roles.submit_job: a role is one of \"member\", \"server\", \"officer\", \"researcher\", \"auditor\", not \"king\"",
        ),
        (
            "[releases]",
            "[time]\nvalid_until = \"2027-02-30T00:00:00Z\"\n[releases]",
            "time.valid_until: \"2027-02-30T00:00:00Z\" is no instant",
        ),
        (
            "[releases]",
            "[time]\nvalid_from = 2027-01-01T00:00:00Z\n[releases]",
            "time.valid_from: a string is wanted",
        ),
        (
            "[releases]",
            "[time]\nvalid_from = \"2027-02-01T00:00:00Z\"\nvalid_until = \"2027-01-01T00:00:00Z\"\n[releases]",
            "2027-01-01T00:00:00Z is before valid_from = 2027-02-01T00:00:00Z",
        ),
        ("name = \"test\"", "name = \" \"", "1 to 128 characters"),
        ("[privacy]", "[privacy", "not TOML"),
        ("rounds = 50", "rounds = 50\nrounds = 50", "not TOML"),
        (
            "[budget]\nepsilon = \"16\"\ndelta = \"2e-5\"",
            "[[budget]]",
            "is a table",
        ),
    ] {
        let said = complaint(from, to);
        assert!(said.contains(why), "{to}: {said}");
    }
    assert!(
        Policy::parse(&"#".repeat(DOCUMENT_TOO_LONG))
            .unwrap_err()
            .to_string()
            .contains("bytes")
    );
}

const DOCUMENT_TOO_LONG: usize = 64 * 1024 + 1;

#[test]
fn without_privacy_no_privacy_may_be_promised() {
    let said = complaint("unit = \"institution\"", "unit = \"none\"");
    let private = ["adjacency", "placement", "epsilon", "delta"].map(|key| ("privacy", key));
    for (section, key) in private
        .into_iter()
        .chain([("budget", "epsilon"), ("budget", "delta")])
    {
        assert!(
            said.contains(&format!("{section}.{key}: must not be written")),
            "{said}"
        );
    }
}

#[test]
fn a_committee_is_read_explained_and_in_the_digest() {
    let with = GOOD.replacen("colluders = 1", "colluders = 1\ncommittee = 40", 1);
    let (policy, without) = (Policy::parse(&with).unwrap(), Policy::parse(GOOD).unwrap());
    assert_eq!((policy.committee(), without.committee()), (Some(40), None));
    let json = r#"{"aggregation":{"colluders":"1","committee":"40","min_cohort":"3","min_contributors":"3"},"#;
    assert!(policy.canonical_json().starts_with(json));
    assert_ne!(policy.digest(), without.digest());
    let said = policy.explain();
    assert!(
        said.contains("a committee of at least 40 members"),
        "{said}"
    );
    assert!(said.contains("probability of at most 2^-40"), "{said}");
    assert!(said.contains("of a committee of 40, at least 21"), "{said}");
    assert!(without.explain().contains("there is no committee"));
    // A share for everybody is the stricter.
    let merged = Policy::merge(&[&policy, &without]).unwrap();
    assert_eq!(merged.committee(), None);
    let larger = with.replacen("= 40", "= 60", 1);
    let larger = Policy::parse(&larger).unwrap();
    let merged = Policy::merge(&[&policy, &larger]).unwrap();
    assert_eq!(merged.committee(), Some(60));
}

/// Every optional key, set.
const OPTIONAL: &str = r#"
[identity]
max_certificate_age_days = 90
max_revocation_list_age_days = 7
[roles]
submit_job = ["researcher", "officer"]
abort_job = []
read_log = []
change_policy = []
[audit]
retention_days = 400
[time]
valid_from = "2027-01-01T00:00:00Z"
valid_until = "2027-12-31T23:59:59Z"
"#;

#[test]
fn optional_keys_are_read_and_in_the_digest_and_their_defaults_are_not() {
    let records = GOOD
        .replace("unit = \"institution\"", "unit = \"record\"")
        .replace("rounds = 50", "rounds = 50\nmax_sampling_rate = \"0.10\"")
        .replace(
            "tasks = [\"classification\"]",
            "tasks = [\"classification\"]\ndatasets = [\"ward 7\"]",
        );
    let policy = Policy::parse(&format!("{records}{OPTIONAL}")).unwrap();
    let instant = |text: &str| text.parse::<Instant>().unwrap();
    assert_eq!(policy.max_sampling_rate().unwrap().to_string(), "0.1");
    assert!(policy.datasets().allows("ward 7") && !policy.datasets().allows("ward 8"));
    assert_eq!(
        (
            policy.max_certificate_age_days(),
            policy.max_revocation_list_age_days()
        ),
        (Some(90), Some(7))
    );
    assert!(policy.may_submit().contains(&Role::Officer) && policy.may_abort().is_empty());
    assert!(policy.may_read_log().is_empty() && !policy.may_be_replaced());
    assert_eq!(policy.retention_days(), Some(400));
    assert_eq!(
        (policy.valid_from(), policy.valid_until()),
        (
            Some(instant("2027-01-01T00:00:00Z")),
            Some(instant("2027-12-31T23:59:59Z"))
        )
    );
    let json = policy.canonical_json();
    for part in [
        r#""identity":{"max_certificate_age_days":"90","max_revocation_list_age_days":"7"}"#,
        r#""datasets":["ward 7"]"#,
        r#""max_sampling_rate":"0.1""#,
        r#""roles":{"abort_job":[],"change_policy":[],"read_log":[],"submit_job":["officer","researcher"]}"#,
        r#""audit":{"retention_days":"400"}"#,
        r#""time":{"valid_from":"2027-01-01T00:00:00Z","valid_until":"2027-12-31T23:59:59Z"}"#,
    ] {
        assert!(json.contains(part), "{json} has no {part}");
    }
    // What says what its absence says changes nothing: older files keep their digests.
    let defaults = format!(
        "{GOOD}[roles]\nsubmit_job = [\"researcher\"]\nabort_job = [\"member\"]\nread_log = [\"auditor\"]\nchange_policy = [\"officer\"]\n[identity]\n[time]\nvalid_from = \"1970-01-01T00:00:00Z\"\n"
    );
    let defaults = Policy::parse(&defaults.replace(
        "tasks = [\"classification\"]",
        "tasks = [\"classification\"]\ndatasets = [\"any\"]",
    ));
    assert_eq!(
        defaults.unwrap().digest(),
        Policy::parse(GOOD).unwrap().digest()
    );
    let records = GOOD.replace("unit = \"institution\"", "unit = \"record\"");
    let loose = records
        .replace("rounds = 50", "rounds = 50\nmax_sampling_rate = \"1.0\"")
        .replace("colluders = 1", "colluders = 1\nthreshold = 2");
    assert_eq!(
        Policy::parse(&loose).unwrap().digest(),
        Policy::parse(&records).unwrap().digest()
    );
}

#[test]
fn a_key_that_would_move_a_cursor_is_shown_escaped_and_cut() {
    let long = "k".repeat(5_000);
    let said = complaint(
        "colluders = 1",
        &format!("colluders = 1\n\"\\u001b[31mEVIL\\u0007{long}\" = 1"),
    );
    assert!(said.contains("\\u{1b}[31mEVIL\\u{7}kkk"), "{said}");
    assert!(
        !said.contains('\u{1b}') && said.len() < 1_000,
        "{}",
        said.len()
    );
}
