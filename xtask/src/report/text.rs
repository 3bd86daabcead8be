//! `benches/README.md`.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use anyhow::{Result, anyhow};
use longhand_results::{Check, Run};

use super::chart::{axis_name, draw};
use super::series::{Ceilings, OURS, Series, Timing, digits, rate_text, series, time_text};
use super::turns;

pub const HEAD: &str = "\
# Benchmarks

Written by `cargo xtask report` from the JSON in `results/`, which has every sample. Times are medians. After a peer's time
stands how many times as long as Longhand it takes: above 1, Longhand is faster. The share is of what the same machine did
in the same run: a large copy for what moves bytes (each input counted once, each output once), a large matrix product, by
the fastest library there, for what computes. On a CPU a copy also reads the memory that it overwrites, so that what works
in place, or fits the cache, may exceed it. Causal attention counts the operations that the mask lets through.
";

/// The part of one machine; writes its pictures beside the results.
pub fn machine(runs: &[Run], folder: &Path) -> Result<String> {
    let all = series(runs);
    let ceilings = runs.iter().find(|run| run.part == "ceilings").map(|run| Ceilings::of(&run.rows).list());
    let machine = &runs[0].machine;
    let name = folder.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let title = machine.gpu.as_ref().map_or(&machine.cpu, |gpu| &gpu.name);
    let mut text = format!("\n## {title}\n\n{}\n{}", description(runs), earlier_revisions(runs));
    if let Some(ceilings) = ceilings.filter(|list| !list.is_empty()) {
        text += &format!("\nCeilings: {}.\n", ceilings.join("; "));
    }
    text += &checks(runs);
    text += &summary(&all);
    text += &turns::section(runs);
    for series in all.iter().filter(|series| has_section(series)) {
        let svg = draw(series).map_err(|error| anyhow!("{}: {error}", series.title()))?;
        fs::write(folder.join(series.file_name()), svg)?;
        text += &format!("\n### {}\n\n", series.title());
        text += &format!("![{}](results/{name}/{})\n\n", series.title(), series.file_name());
        text += &table(series);
    }
    Ok(text + &missing(runs))
}

/// Of one size, the line in the summary tells all.
fn has_section(series: &Series<'_>) -> bool {
    series.points.len() > 1
}

/// The machine, the versions and the day.
fn description(runs: &[Run]) -> String {
    let machine = &runs[0].machine;
    let mut words = vec![format!("{}, {} cores", machine.cpu, machine.cores)];
    words.push(format!("{} GiB of memory", (machine.memory as f64 / f64::from(1 << 30)).round()));
    if let Some(gpu) = runs.iter().rev().find_map(|run| run.machine.gpu.as_ref()) {
        words.push(format!("{} ({})", gpu.name, gpu.arch));
        words.extend(gpu.driver.as_ref().map(|driver| format!("driver {driver}")));
        words.extend(gpu.clocks.map(|[sm, memory]| format!("clocks {sm} and {memory} MHz")));
    }
    let mut versions = BTreeMap::new();
    for run in runs {
        versions.extend(&run.versions);
    }
    words.extend(versions.iter().map(|(name, version)| format!("{name} {version}")));
    let days = runs.iter().filter_map(|run| run.date.split('T').next()).filter(|day| !day.is_empty());
    words.extend(days.max().map(str::to_owned));
    words.join(", ") + "."
}

/// Which parts another revision was measured for than the newest one, which the description names.
fn earlier_revisions(runs: &[Run]) -> String {
    let revision = |run: &Run| run.versions.get(OURS).cloned();
    let Some(newest) = runs.iter().rev().find_map(revision) else { return String::new() };
    let mut parts: BTreeMap<String, Vec<&str>> = BTreeMap::new();
    for run in runs {
        if let Some(other) = revision(run).filter(|it| *it != newest) {
            parts.entry(other).or_default().push(&run.part);
        }
    }
    let lines = parts.iter().map(|(revision, parts)| format!("{} of {revision}", parts.join(", ")));
    let lines: Vec<String> = lines.collect();
    if lines.is_empty() { String::new() } else { format!("\nOf earlier revisions: {}.\n", lines.join("; ")) }
}

fn checks(runs: &[Run]) -> String {
    let all: Vec<&Check> = runs.iter().flat_map(|run| &run.checks).collect();
    let mut text = String::new();
    let mut against: Vec<&str> = all.iter().map(|check| check.against.as_str()).collect();
    against.sort_unstable();
    against.dedup();
    for against in against {
        let of: Vec<&&Check> = all.iter().filter(|check| check.against == against).collect();
        let passed = of.iter().filter(|check| check.passed()).count();
        text +=
            &format!("\nChecked against {against}: {passed} of {} outputs within their limits.\n", of.len());
    }
    for check in all.into_iter().filter(|check| !check.passed()) {
        let why = check
            .failure
            .clone()
            .unwrap_or_else(|| format!("error {:?}, limit {:.1e}", check.error, check.limit));
        text += &format!("- FAILED: {}: {}\n", check.what, why.replace('\n', " "));
    }
    for run in runs {
        if let Some(failure) = &run.failure {
            text += &format!(
                "\nThe part `{}` did not come to its end: {}.\n",
                run.part,
                failure.replace('\n', " ")
            );
        }
    }
    text
}

/// Each series at its greatest size that a peer has too, beside the fastest there; without peers, at its greatest.
fn summary(all: &[Series<'_>]) -> String {
    let mut lines = String::new();
    for series in all {
        let ours = || series.points.iter().rev().filter(|(_, point)| point.contains_key(OURS));
        let Some((size, point)) = ours().find(|(_, point)| point.len() > 1).or_else(|| ours().next()) else {
            continue;
        };
        let ours = point[OURS];
        let peers =
            point.iter().filter(|(name, _)| **name != OURS).map(|(name, peer)| (name, peer.row.median()));
        let best = peers.min_by(|a, b| a.1.total_cmp(&b.1));
        let peer = best.map_or_else(
            || "|".to_owned(),
            |(name, time)| format!("{name} | {}x", digits(time / ours.row.median())),
        );
        let (time, rate) = (time_text(ours.row.median()), rate_text(ours.row.rate(), series.unit));
        let share = ours.share();
        let mut title = series.title();
        if has_section(series) {
            title = format!("[{title}](#{})", anchor(&title));
        }
        lines += &format!("| {title} | {} {size} | {time} | {rate} | {share} | {peer} |\n", series.axis);
    }
    format!(
        "\n| | size | Longhand | rate | of the ceiling | fastest peer | takes |\n|---|---|--:|--:|--:|---|--:|\n{lines}"
    )
}

/// What GitHub calls the place of a heading.
fn anchor(title: &str) -> String {
    let kept = title.to_lowercase().replace(' ', "-");
    kept.chars().filter(|&c| c.is_alphanumeric() || c == '-' || c == '_').collect()
}

fn table(series: &Series<'_>) -> String {
    let names = series.implementations();
    let peers: Vec<&str> = names.iter().copied().filter(|&name| name != OURS).collect();
    let has_peak =
        series.points.values().any(|point| point.get(OURS).is_some_and(|ours| ours.row.peak_bytes.is_some()));
    let with_peak = has_peak && ["training step", "linear cross-entropy"].contains(&series.operation);
    let mut columns = vec![axis_name(series.axis), "Longhand", "rate", "of the ceiling"];
    columns.extend(with_peak.then_some("peak memory"));
    columns.extend(&peers);
    let mut text = format!("| {} |\n|{}\n", columns.join(" | "), "--:|".repeat(columns.len()));
    for (size, point) in &series.points {
        let ours = point.get(OURS);
        let mut cells = vec![
            size.to_string(),
            ours.map_or_else(String::new, |ours| time_text(ours.row.median())),
            ours.map_or_else(String::new, |ours| rate_text(ours.row.rate(), series.unit)),
            ours.map_or_else(String::new, Timing::share),
        ];
        if with_peak {
            let peak = ours.and_then(|ours| ours.row.peak_bytes);
            cells.push(peak.map_or_else(String::new, |bytes| format!("{} MiB", bytes >> 20)));
        }
        for peer in &peers {
            let cell = |time: f64| {
                let ratio = ours.map(|ours| format!(" ({}x)", digits(time / ours.row.median())));
                time_text(time) + &ratio.unwrap_or_default()
            };
            cells.push(point.get(peer).map_or_else(String::new, |peer| cell(peer.row.median())));
        }
        text += &format!("| {} |\n", cells.join(" | "));
    }
    text
}

/// What was not measured, each reason once.
fn missing(runs: &[Run]) -> String {
    let mut reasons: BTreeMap<String, Vec<&str>> = BTreeMap::new();
    for missing in runs.iter().flat_map(|run| &run.missing) {
        let why = missing.why.lines().next().unwrap_or_default().to_owned();
        reasons.entry(why).or_default().push(&missing.what);
    }
    if reasons.is_empty() {
        return String::new();
    }
    let mut text = "\n### Missing\n\n".to_owned();
    for (why, what) in reasons {
        let more = if what.len() > 1 { format!(" and {} more", what.len() - 1) } else { String::new() };
        text += &format!("- {}{more}: {why}\n", what[0]);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::anchor;

    #[test]
    fn an_anchor_has_neither_signs_nor_capitals() {
        assert_eq!(anchor("rope cpu f32 D128 H8/2"), "rope-cpu-f32-d128-h82");
        assert_eq!(anchor("sampling, top-p 0.9"), "sampling-top-p-09");
    }
}
