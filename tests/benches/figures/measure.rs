//! Medians and spreads.

use std::io::{Seek, SeekFrom, Write};
use std::time::{Duration, Instant};

/// Samples of one figure.
pub struct Samples {
    name: String,
    samples: Vec<Duration>,
}

impl Samples {
    pub fn new(name: impl Into<String>) -> Self {
        Self { name: name.into(), samples: Vec::new() }
    }

    pub fn add(&mut self, sample: Duration) {
        self.samples.push(sample);
    }

    pub fn time<T>(&mut self, run: impl FnOnce() -> T) -> T {
        let started = Instant::now();
        let value = run();
        self.add(started.elapsed());
        value
    }

    fn at(&self, percent: usize) -> Duration {
        let mut sorted = self.samples.clone();
        sorted.sort();
        sorted[(sorted.len() * percent / 100).min(sorted.len() - 1)]
    }

    pub fn print(&self) {
        let ms = |sample: Duration| sample.as_secs_f64() * 1e3;
        println!(
            "{:<58} median {:>9.3} ms   p10 {:>9.3}   p99 {:>9.3}   n {}",
            self.name,
            ms(self.at(50)),
            ms(self.at(10)),
            ms(self.at(99)),
            self.samples.len()
        );
    }
}

/// The disk's own time for an fsync, as a reference for all other figures.
pub fn disk() {
    let folder = tempfile::tempdir().unwrap();
    let mut file = std::fs::File::create(folder.path().join("probe")).unwrap();
    let mut samples = Samples::new("fdatasync of 4 KiB written over");
    file.write_all(&[0; 4096]).unwrap();
    file.sync_all().unwrap();
    for _ in 0..500 {
        file.seek(SeekFrom::Start(0)).unwrap();
        file.write_all(&[1; 4096]).unwrap();
        samples.time(|| file.sync_data().unwrap());
    }
    samples.print();
}
