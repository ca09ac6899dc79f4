//! `clock`: the moment of the call.

use crate::bindings::election::althing::policy::clock::Host;
use crate::store::Call;

impl Host for Call {
    fn now(&mut self) -> f64 {
        self.subject.now_ms
    }
}
