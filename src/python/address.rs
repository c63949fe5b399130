//! Addresses as Python's `socket` module writes them.

use std::ffi::OsStr;
use std::net::Ipv6Addr;
use std::os::unix::ffi::OsStrExt;

use pyo3::prelude::*;
use pyo3::types::PyBytes;

use crate::address::Address;

/// `(host, port)`, `(host, port, flowinfo, scope_id)`, a path, the bytes of an abstract name with its
/// leading NUL, or an empty string for a socket without a name.
pub(super) fn to_python<'py>(py: Python<'py>, address: &Address) -> PyResult<Bound<'py, PyAny>> {
    Ok(match address {
        Address::Inet(address) => {
            (address.ip().to_string(), address.port()).into_pyobject(py)?.into_any()
        }
        Address::Inet6(address) => {
            let host = inet_ntop(address.ip());
            (host, address.port(), u32::from_be(address.flowinfo()), address.scope_id())
                .into_pyobject(py)?
                .into_any()
        }
        Address::UnixPath(path) => path.as_os_str().into_pyobject(py)?.into_any(),
        Address::UnixAbstract(name) => PyBytes::new(py, &[b"\0", &name[..]].concat()).into_any(),
        Address::UnixUnnamed => OsStr::from_bytes(b"").into_pyobject(py)?.into_any(),
    })
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
