//! Runs every fuzz target on stable Rust, for as many seconds each as the command line says (10), on
//! input of a seeded random source: bytes, and pieces of what the targets know. The seed is printed, and
//! is the second argument of a run that shall be the same.

use std::env;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// A target, and what is likely to take it somewhere.
type Target = (&'static str, fn(&[u8]), &'static [&'static str]);

const TARGETS: &[Target] = &[
    (
        "address",
        fastsocketserver_fuzz::address,
        &["127.0.0.1", "[", "]", "::1", ":", "80", "%1", "unix:", "@", "/run/x", ".", "\0", "é"],
    ),
    (
        "line_reader",
        fastsocketserver_fuzz::line_reader,
        &["\n", "\r\n", "\0", "a", "aaaaaaaaaaaaaaa"],
    ),
];

fn main() {
    let mut arguments = env::args().skip(1).map(|word| word.parse::<u64>().expect("a number"));
    let seconds = arguments.next().unwrap_or(10);
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let seed = arguments.next().unwrap_or(u64::from(now.subsec_nanos()) ^ now.as_secs());
    println!("seed {seed}");
    for (name, target, words) in TARGETS {
        let mut random = Random(seed | 1);
        let end = Instant::now() + Duration::from_secs(seconds);
        let mut runs = 0_u64;
        while Instant::now() < end {
            target(&random.input(words));
            runs += 1;
        }
        println!("{name}: {runs} inputs");
    }
}

/// Marsaglia's xorshift64*: good enough to choose by, and no dependency.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_F491_4F6C_DD1D)
    }

    /// A number below `limit`.
    fn below(&mut self, limit: usize) -> usize {
        usize::try_from(self.next() % limit as u64).unwrap_or_default()
    }

    fn input(&mut self, words: &[&str]) -> Vec<u8> {
        let mut input = Vec::new();
        for _ in 0..self.below(24) {
            match self.below(4) {
                0 => input.push(self.next().to_le_bytes()[7]),
                _ => input.extend_from_slice(words[self.below(words.len())].as_bytes()),
            }
        }
        input
    }
}
