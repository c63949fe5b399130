//! `Datagram::receive` and `Datagram::receive_batch` while datagrams are waiting.

mod common;

use std::net::{SocketAddr, UdpSocket};

use criterion::{BatchSize, Criterion, Throughput};
use fastsocketserver::{Address, Datagram, ListenOptions};

const BURST: u64 = 64;

fn main() {
    common::run(receive);
}

fn receive(criterion: &mut Criterion) {
    let loopback = "127.0.0.1:0".parse().expect("an address");
    let datagram = Datagram::bind(&loopback, &ListenOptions::default()).expect("bind");
    let Ok(Address::Inet(address)) = datagram.local_addr() else { panic!("no address") };
    let client = UdpSocket::bind("127.0.0.1:0").expect("bind");
    client.connect(SocketAddr::from(address)).expect("connect");
    let mut group = criterion.benchmark_group("datagram");
    group.throughput(Throughput::Elements(BURST));
    for capacity in [1, 16, 64] {
        let mut batch = datagram.batch(capacity);
        group.bench_function(format!("64 of 32 bytes, {capacity} at once"), |bencher| {
            bencher.iter_batched(
                || {
                    for _ in 0..BURST {
                        client.send(&[b'?'; 32]).expect("send");
                    }
                },
                |()| {
                    let mut received = 0;
                    while received < BURST {
                        datagram.receive_batch(&mut batch).expect("a datagram is waiting");
                        received += std::iter::from_fn(|| batch.pop()).count() as u64;
                    }
                },
                BatchSize::PerIteration,
            );
        });
    }
    group.finish();
}
