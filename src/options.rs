//! What a listener is opened with.

/// Options for [`Listener::bind`](crate::Listener::bind) and
/// [`Datagram::bind`](crate::Datagram::bind).
///
/// ```
/// use fastsocketserver::ListenOptions;
///
/// let options = ListenOptions { reuse_address: true, ..ListenOptions::default() };
/// assert_eq!(options.max_packet_size, 8192);
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ListenOptions {
    /// How many connections the kernel keeps until they are accepted (`listen(2)`); it caps the
    /// number at `net.core.somaxconn`. Default: 4096. Streams only.
    pub backlog: i32,
    /// Sets `SO_REUSEADDR` before binding. Default: off.
    pub reuse_address: bool,
    /// Sets `SO_REUSEPORT` before binding, on internet sockets alone: Unix sockets do not have it.
    /// Default: off.
    pub reuse_port: bool,
    /// Whether an IPv6 socket takes IPv4 as well (`IPV6_V6ONLY` off), from addresses that look like
    /// `[::ffff:127.0.0.1]:80`. Default: as the system has it, which on Linux is yes.
    pub dual_stack: Option<bool>,
    /// The longest datagram that is received whole, in bytes; a longer one is cut. Default: 8192.
    pub max_packet_size: usize,
}

impl Default for ListenOptions {
    fn default() -> Self {
        Self {
            backlog: 4096,
            reuse_address: false,
            reuse_port: false,
            dual_stack: None,
            max_packet_size: 8192,
        }
    }
}
