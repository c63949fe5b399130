//! The replies of a batch of datagrams, which leave together.

use std::io;
use std::sync::{Arc, Mutex, PoisonError};

use crate::control::{Outcome, Place};
use crate::datagram::Datagram;
use crate::request::Request;

/// Handled datagrams whose replies wait for the rest of their batch, each with the place that it
/// takes until its reply has left; clones share them.
#[derive(Clone, Debug, Default)]
pub(crate) struct Replies(Arc<Mutex<Vec<(Request, Place)>>>);

impl Replies {
    /// Keeps the reply of `request` behind those that are here.
    pub(crate) fn push(&self, request: Request, place: Place) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push((request, place));
    }

    /// Sends all replies by way of `socket`, in order, and gives the places back; calls `failed` for
    /// each that cannot be sent.
    pub(crate) fn send(
        &self,
        socket: &Datagram,
        mut failed: impl FnMut(&Request, &io::Error) -> Outcome,
    ) {
        let handled = std::mem::take(&mut *self.0.lock().unwrap_or_else(PoisonError::into_inner));
        let (indices, replies): (Vec<_>, Vec<_>) = handled
            .iter()
            .enumerate()
            .filter_map(|(index, (request, _))| request.reply().map(|reply| (index, reply)))
            .unzip();
        let mut outcomes = vec![Outcome::Finished; handled.len()];
        socket.send_batch(&replies, |reply, error| {
            let index = indices[reply];
            outcomes[index] = failed(&handled[index].0, &error);
        });
        for ((_, place), outcome) in handled.into_iter().zip(outcomes) {
            place.settle(outcome);
        }
    }
}
