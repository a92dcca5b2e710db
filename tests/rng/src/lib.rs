//! The random number generator of the tests: a run can be repeated with its seed.

/// A generator: the same numbers for the same seed, with the same version of `fastrand`.
#[derive(Debug, Clone)]
pub struct Rng(fastrand::Rng);

/// A number below which [`Rng::below`] can choose.
pub trait Bound: Sized {
    /// A number below this one; 0 if there is none.
    fn choose(self, rng: &mut fastrand::Rng) -> Self;
}

impl Bound for u64 {
    fn choose(self, rng: &mut fastrand::Rng) -> Self {
        rng.u64(..self.max(1))
    }
}

impl Bound for usize {
    fn choose(self, rng: &mut fastrand::Rng) -> Self {
        rng.usize(..self.max(1))
    }
}

/// The type of a literal whose type nothing else decides.
impl Bound for i32 {
    fn choose(self, rng: &mut fastrand::Rng) -> Self {
        rng.i32(0..self.max(1))
    }
}

impl Rng {
    /// Takes a fixed seed.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        Self(fastrand::Rng::with_seed(seed))
    }

    /// Takes the seed from `LANDFALL_SEED`, or else a random one, and prints it. A failed run can be
    /// replayed with it as far as the processes' timing allows.
    #[must_use]
    pub fn from_environment() -> Self {
        let given = std::env::var("LANDFALL_SEED").ok().and_then(|seed| seed.parse().ok());
        let seed = given.unwrap_or_else(|| fastrand::u64(..));
        println!("seed {seed} (LANDFALL_SEED={seed} repeats it)");
        Self::new(seed)
    }

    /// The next number.
    pub fn next_u64(&mut self) -> u64 {
        self.0.u64(..)
    }

    /// A number below `bound`; 0 for a bound of 0.
    pub fn below<T: Bound>(&mut self, bound: T) -> T {
        bound.choose(&mut self.0)
    }

    /// True in `percent` of 100 cases.
    pub fn chance(&mut self, percent: u64) -> bool {
        self.below(100_u64) < percent
    }

    /// True with probability 1 / `times`.
    pub fn one_in(&mut self, times: u64) -> bool {
        self.below(times) == 0
    }

    /// Random bytes.
    pub fn bytes<const N: usize>(&mut self) -> [u8; N] {
        let mut bytes = [0; N];
        self.0.fill(&mut bytes);
        bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_repeats_its_numbers() {
        let numbers = |seed| {
            let mut rng = Rng::new(seed);
            (rng.next_u64(), rng.below(1_000_000_usize), rng.bytes::<16>())
        };
        assert_eq!(numbers(7), numbers(7));
        assert_ne!(numbers(7), numbers(8));
    }

    #[test]
    fn numbers_are_below_their_bound() {
        let mut rng = Rng::new(1);
        assert!((0..1_000).all(|_| rng.below(3_u64) < 3 && rng.below(3_usize) < 3));
        assert!((0..1_000).all(|_| (0..3).contains(&rng.below(3_i32))));
        assert_eq!((rng.below(0_u64), rng.below(0_usize), rng.below(0_i32)), (0, 0, 0));
        assert!((0..100).all(|_| rng.chance(100) && !rng.chance(0) && rng.one_in(1)));
    }
}
