//! A small generator (splitmix64), so that a run can be repeated from its printed seed.

/// The generator.
#[derive(Debug, Clone)]
pub struct Rng(u64);

impl Rng {
    /// Takes the seed from `LANDFALL_SEED`, or else from the clock, and prints it. A failed run can be
    /// replayed with it as far as the processes' timing allows.
    pub fn from_environment() -> Self {
        let given = std::env::var("LANDFALL_SEED").ok().and_then(|seed| seed.parse().ok());
        let clock = std::time::SystemTime::now()
            .duration_since(std::time::UNIX_EPOCH)
            .map_or(1, |since| since.as_nanos() as u64);
        let seed = given.unwrap_or(clock);
        println!("seed {seed} (LANDFALL_SEED={seed} repeats it)");
        Self(seed)
    }

    /// Takes a fixed seed.
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// The next number.
    pub fn next_u64(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number below `bound`.
    pub fn below(&mut self, bound: u64) -> u64 {
        self.next_u64() % bound.max(1)
    }
}
