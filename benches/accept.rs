//! `Listener::accept` while a burst of connections is waiting.

mod common;

use std::net::SocketAddr;
use std::time::Duration;

use criterion::{BatchSize, Criterion, Throughput};
use fastsocketserver::{Address, ListenOptions, Listener};
use socket2::{Domain, Socket, Type};

const BURST: u64 = 64;

fn main() {
    common::run(accept);
}

fn accept(criterion: &mut Criterion) {
    let loopback = "127.0.0.1:0".parse().expect("an address");
    let listener = Listener::bind(&loopback, &ListenOptions::default()).expect("bind");
    let Ok(Address::Inet(address)) = listener.local_addr() else { panic!("no address") };
    let mut group = criterion.benchmark_group("accept");
    group.throughput(Throughput::Elements(BURST));
    group.bench_function("burst of 64", |bencher| {
        bencher.iter_batched_ref(
            || (connect(address.into()), Vec::with_capacity(64)),
            |(_clients, accepted)| {
                for _ in 0..BURST {
                    accepted.push(listener.accept().expect("a connection is waiting"));
                }
            },
            BatchSize::PerIteration,
        );
    });
    group.finish();
}

fn connect(address: SocketAddr) -> Vec<Socket> {
    let connect = |_| {
        let client = Socket::new(Domain::for_address(address), Type::STREAM, None)?;
        // Otherwise every port stays taken for a minute after its connection.
        client.set_linger(Some(Duration::ZERO))?;
        client.connect(&address.into())?;
        Ok::<_, std::io::Error>(client)
    };
    (0..BURST).map(connect).collect::<Result<_, _>>().expect("connect")
}
