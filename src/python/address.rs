//! Addresses as Python's `socket` module writes them.

use std::ffi::OsStr;
use std::net::{IpAddr, Ipv6Addr};
use std::os::unix::ffi::OsStrExt;

use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyString};

use crate::address::Address;

/// Writes addresses; of the last host it keeps the text, for most requests come from few.
#[derive(Debug, Default)]
pub(super) struct Writer {
    last: Option<(IpAddr, Py<PyString>)>,
}

impl Writer {
    /// `(host, port)`, `(host, port, flowinfo, scope_id)`, a path, the bytes of an abstract name with
    /// its leading NUL, or an empty string for a socket without a name.
    pub(super) fn write<'py>(
        &mut self,
        py: Python<'py>,
        address: &Address,
    ) -> PyResult<Bound<'py, PyAny>> {
        Ok(match address {
            Address::Inet(address) => {
                let host = self.host(py, IpAddr::V4(*address.ip()));
                (host, address.port()).into_pyobject(py)?.into_any()
            }
            Address::Inet6(address) => {
                let host = self.host(py, IpAddr::V6(*address.ip()));
                (host, address.port(), u32::from_be(address.flowinfo()), address.scope_id())
                    .into_pyobject(py)?
                    .into_any()
            }
            Address::UnixPath(path) => path.as_os_str().into_pyobject(py)?.into_any(),
            Address::UnixAbstract(name) => {
                PyBytes::new(py, &[b"\0", &name[..]].concat()).into_any()
            }
            Address::UnixUnnamed => OsStr::from_bytes(b"").into_pyobject(py)?.into_any(),
        })
    }

    fn host<'py>(&mut self, py: Python<'py>, address: IpAddr) -> Bound<'py, PyString> {
        if let Some((last, host)) = &self.last {
            if *last == address {
                return host.bind(py).clone();
            }
        }
        let host = match &address {
            IpAddr::V4(address) => PyString::new(py, &address.to_string()),
            IpAddr::V6(address) => PyString::new(py, &inet_ntop(address)),
        };
        self.last = Some((address, host.clone().unbind()));
        host
    }
}

/// As `inet_ntop(3)` writes it: unlike Rust, it ends IPv4-compatible addresses (`::1.2.3.4`, RFC
/// 4291 section 2.5.5.1) with dots too.
fn inet_ntop(address: &Ipv6Addr) -> String {
    match address.segments() {
        [0, 0, 0, 0, 0, 0, high, _] if high != 0 => {
            let [.., a, b, c, d] = address.octets();
            format!("::{a}.{b}.{c}.{d}")
        }
        _ => address.to_string(),
    }
}
