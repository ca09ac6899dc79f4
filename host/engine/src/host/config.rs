//! `config`: the settings of the policy.

use crate::bindings::election::althing::policy::config::Host;
use crate::store::Call;

impl Host for Call {
    fn settings(&mut self) -> String {
        self.subject.settings.json().to_owned()
    }

    fn get(&mut self, name: String) -> Option<String> {
        self.subject.settings.get(&name)
    }
}
