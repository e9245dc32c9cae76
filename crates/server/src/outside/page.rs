//! The page for people.

use std::cmp::Ordering;

use minijinja::{Environment, value::Serde};

use super::status::{PHASES, Status};

/// The page. Everything that is put in is escaped: the template's name says that it is HTML.
const PAGE: &str = include_str!("page.html");

/// Letters of a reason that are shown; `/status.json` has all of it.
const REASON: usize = 400;

/// Members of one job that are shown.
const MEMBERS: usize = 48;

/// The page as it is served.
pub fn html(status: &Status) -> Result<String, String> {
    let mut environment = Environment::new();
    environment
        .add_template("page.html", PAGE)
        .map_err(|error| error.to_string())?;
    environment.add_filter("bytes", bytes);
    environment.add_filter("span", span);
    environment.add_filter("time", time);
    environment.add_filter("thousands", thousands);
    environment.add_filter("reason", reason);
    environment.add_filter("beside", beside);
    environment.add_filter("short", |text: String| -> String {
        text.chars().take(12).collect()
    });
    environment.add_global("members_shown", MEMBERS);
    let page = environment.get_template("page.html");
    let page = page.map_err(|error| error.to_string())?;
    page.render(Serde(status))
        .map_err(|error| error.to_string())
}

/// 1.5 MB.
fn bytes(bytes: u64) -> String {
    const UNITS: [&str; 5] = ["kB", "MB", "GB", "TB", "PB"];
    if bytes < 1_000 {
        return format!("{bytes} B");
    }
    let (mut value, mut unit) = (bytes as f64 / 1e3, 0);
    // What would be written as 1000 is the next unit's 1.00.
    while value >= 999.5 && unit + 1 < UNITS.len() {
        value /= 1e3;
        unit += 1;
    }
    let places = match value {
        v if v < 9.995 => 2,
        v if v < 99.95 => 1,
        _ => 0,
    };
    let unit = UNITS.get(unit).unwrap_or(&"PB");
    format!("{value:.places$} {unit}")
}

/// 40 ms, 1.2 s, 45 s, 3 min 20 s, 2 h 5 min, 29 d 23 h; a number and its unit stay on one line.
fn span(seconds: f64) -> String {
    if seconds < 0.95 {
        return format!("{:.0}\u{a0}ms", seconds * 1e3);
    }
    if seconds < 9.95 {
        return format!("{seconds:.1}\u{a0}s");
    }
    let whole = seconds.round() as u64;
    let (days, hours, minutes) = (whole / 86_400, whole / 3_600, whole / 60);
    let two = |first: u64, unit: &str, second: u64, next: &str| match second {
        0 => format!("{first}\u{a0}{unit}"),
        _ => format!("{first}\u{a0}{unit} {second}\u{a0}{next}"),
    };
    match whole {
        0..60 => format!("{whole}\u{a0}s"),
        60..3_600 => two(minutes, "min", whole % 60, "s"),
        3_600..86_400 => two(hours, "h", minutes % 60, "min"),
        _ => two(days, "d", hours % 24, "h"),
    }
}

/// `2026-01-31T12:00:00.000Z` without its `T`, its fraction and its `Z`: the page says that times are UTC.
fn time(text: String) -> String {
    let day = text.get(..10).unwrap_or(&text);
    match text.get(11..19) {
        Some(time) => format!("{day} {time}"),
        None => text,
    }
}

/// Where a phase stands beside the one that a job is in.
fn beside(phase: String, now: String) -> &'static str {
    let place = |name: &str| PHASES.into_iter().position(|phase| phase == name);
    match place(&phase).cmp(&place(&now)) {
        Ordering::Less => "past",
        Ordering::Equal => "now",
        Ordering::Greater => "next",
    }
}

fn thousands(number: u64) -> String {
    let digits = number.to_string();
    let mut grouped = String::new();
    for (place, digit) in digits.chars().enumerate() {
        if place > 0 && (digits.len() - place).is_multiple_of(3) {
            grouped.push('\u{202f}');
        }
        grouped.push(digit);
    }
    grouped
}

fn reason(text: String) -> String {
    let mut shown: String = text.chars().take(REASON).collect();
    if shown.len() < text.len() {
        shown.push('…');
    }
    shown
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantities_are_written_for_people() {
        for (given, written) in [
            (0, "0 B"),
            (999, "999 B"),
            (1_000, "1.00 kB"),
            (65_536, "65.5 kB"),
            (999_499, "999 kB"),
            (999_500, "1.00 MB"),
            (50_331_648, "50.3 MB"),
            (u64::MAX, "18447 PB"),
        ] {
            assert_eq!(bytes(given), written);
        }
        for (given, written) in [
            (0.0, "0 ms"),
            (0.0404, "40 ms"),
            (0.96, "1.0 s"),
            (9.94, "9.9 s"),
            (9.96, "10 s"),
            (59.6, "1 min"),
            (200.0, "3 min 20 s"),
            (7_500.0, "2 h 5 min"),
            (2_588_400.0, "29 d 23 h"),
        ] {
            assert_eq!(span(given).replace('\u{a0}', " "), written);
        }
        assert_eq!(
            time("2026-01-31T12:00:07.123Z".into()),
            "2026-01-31 12:00:07"
        );
        assert_eq!(thousands(1_234_567), "1\u{202f}234\u{202f}567");
        assert_eq!(reason("é".repeat(500)).chars().count(), REASON + 1);
    }
}
