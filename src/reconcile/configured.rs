//! What the configuration asks for while the program runs, and who overrules it.

use super::switch::Switch;
use super::wish::Wish;

/// What the configuration asked for while we run.
#[derive(Debug, Default)]
pub struct Configuration {
    /// The mode, whether it came to it or not.
    pub asked: Option<Wish>,
    /// Somebody switched since, and is obeyed until it asks for something else.
    pub overruled: bool,
}

impl Configuration {
    /// Takes in a switch; whether it is one of the configuration's that somebody's own came after.
    pub fn overrules(&mut self, switch: &Switch) -> bool {
        if !switch.configured {
            return false;
        }
        self.overruled &= self.asked == Some(switch.wish);
        self.asked = Some(switch.wish);
        self.overruled
    }
}
