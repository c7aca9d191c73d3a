//! Runs the workloads in turns and prints the medians.

/// What a figure is.
#[derive(Clone, Copy)]
pub enum Unit {
    /// So many of these each second.
    PerSecond(&'static str),
    /// So many seconds each.
    SecondsEach,
}

/// One way to do a piece of work; returns how many steps it did (or bytes it moved), in how many
/// seconds.
pub type Run = fn() -> (f64, f64);

pub struct Workload {
    pub name: &'static str,
    pub rival: &'static str,
    pub unit: Unit,
    pub at_least: Option<f64>,
    pub ours: Run,
    /// The best of these counts.
    pub theirs: &'static [Run],
}

pub fn print(workloads: &[Workload], rounds: usize, filters: &[String]) {
    println!(
        "{:<24}{:>16}{:>16}  {:<22}{:>7}{:>10}",
        "workload", "procession", "rival", "", "ratio", "at least"
    );
    let chosen = |workload: &&Workload| {
        filters.is_empty() || filters.iter().any(|filter| workload.name.contains(&filter[..]))
    };
    for workload in workloads.iter().filter(chosen) {
        let mut ours = Vec::new();
        let mut theirs = vec![Vec::new(); workload.theirs.len()];
        for _ in 0..rounds {
            ours.push(rate((workload.ours)()));
            for (run, rates) in workload.theirs.iter().zip(&mut theirs) {
                rates.push(rate(run()));
            }
        }
        let ours = median(ours);
        let theirs = theirs.into_iter().map(median).fold(0.0, f64::max);
        let ratio = ours / theirs;
        let (asked, verdict) = match workload.at_least {
            Some(min) => (format!("{min}"), if ratio < min { "  below" } else { "" }),
            None => ("-".to_owned(), ""),
        };
        println!(
            "{:<24}{:>16}{:>16}  {:<22}{ratio:>7.2}{asked:>10}{verdict}",
            workload.name,
            figure(ours, workload.unit),
            figure(theirs, workload.unit),
            workload.rival,
        );
    }
}

fn rate((steps, seconds): (f64, f64)) -> f64 {
    steps / seconds
}

fn median(mut rates: Vec<f64>) -> f64 {
    rates.sort_by(f64::total_cmp);
    rates[rates.len() / 2]
}

fn figure(rate: f64, unit: Unit) -> String {
    match unit {
        Unit::PerSecond(what) if rate >= 1e9 => format!("{:.2} G{what}/s", rate / 1e9),
        Unit::PerSecond(what) => format!("{:.3} M{what}/s", rate / 1e6),
        Unit::SecondsEach if rate < 1e6 => format!("{:.2} us", 1e6 / rate),
        Unit::SecondsEach => format!("{:.1} ns", 1e9 / rate),
    }
}
