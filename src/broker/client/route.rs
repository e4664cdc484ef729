//! Publishing to exchanges.

use super::Client;
use crate::model::Refusal;
use crate::model::consume::Route;

impl Client {
    /// Finds the queues that a publish to an exchange is for, and stores it there.
    pub(super) fn route(&mut self, route: Route) {
        self.confirm(route.token, Err(Refusal::Unsupported { what: "publishing to exchanges" }));
    }
}
