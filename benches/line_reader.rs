//! `ReadBuffer::read_line` on a stream that is in memory.

mod common;

use std::convert::Infallible;
use std::hint::black_box;

use criterion::{Criterion, Throughput};
use fastsocketserver::{ReadBuffer, Room};

/// As large as a file over a connection has it.
const SIZE: usize = 8192;

fn main() {
    common::run(read_line);
}

fn read_line(criterion: &mut Criterion) {
    let short = b"GET / HTTP/1.1\r\n";
    let mut long = vec![b'x'; (64 << 10) - 1];
    long.push(b'\n');
    let mut group = criterion.benchmark_group("read_line");
    for (name, data, lines) in [
        ("one short line in a receive", short.to_vec(), 1),
        ("100 short lines in a receive", short.repeat(100), 100),
        ("one line of 64 KiB", long, 1),
    ] {
        group.throughput(Throughput::Elements(lines));
        group.bench_function(name, |bencher| {
            let mut buffer = ReadBuffer::new(SIZE);
            let mut rest = &data[..0];
            bencher.iter(|| {
                rest = &data;
                for _ in 0..lines {
                    let receive = |room: &mut Room<'_>| {
                        let length = room.put(rest);
                        rest = &rest[length..];
                        Ok::<_, Infallible>(Some(length))
                    };
                    let length = buffer.read_line(None, receive, |line| black_box(line).len());
                    assert_ne!(length, Ok(0));
                }
            });
        });
    }
    group.finish();
}
