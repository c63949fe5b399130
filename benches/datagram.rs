//! `Datagram::receive` while datagrams are waiting.

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
    group.bench_function("64 of 32 bytes", |bencher| {
        bencher.iter_batched(
            || {
                for _ in 0..BURST {
                    client.send(&[b'?'; 32]).expect("send");
                }
            },
            |()| {
                for _ in 0..BURST {
                    datagram.receive().expect("a datagram is waiting");
                }
            },
            BatchSize::PerIteration,
        );
    });
    group.finish();
}
