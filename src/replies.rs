//! The replies of a batch of datagrams, which leave together.

use std::io;
use std::sync::{Arc, Mutex, PoisonError};

use crate::datagram::Datagram;
use crate::handler::Request;

/// Handled datagrams whose replies wait for the rest of their batch; clones share them.
#[derive(Clone, Debug, Default)]
pub(crate) struct Replies(Arc<Mutex<Vec<Request>>>);

impl Replies {
    /// Keeps the reply of `request` behind those that are here.
    pub(crate) fn push(&self, request: Request) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push(request);
    }

    /// Sends all replies by way of `socket`, in order; calls `failed` for each that cannot be sent.
    pub(crate) fn send(&self, socket: &Datagram, failed: impl Fn(&Request, &io::Error)) {
        let requests = std::mem::take(&mut *self.0.lock().unwrap_or_else(PoisonError::into_inner));
        let (answered, replies): (Vec<_>, Vec<_>) = requests
            .iter()
            .filter_map(|request| request.reply().map(|reply| (request, reply)))
            .unzip();
        socket.send_batch(&replies, |index, error| failed(answered[index], &error));
    }
}
