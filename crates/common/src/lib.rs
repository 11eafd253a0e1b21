//! What every server needs and none owns: a closed list of small things.
//!
//! | module | what it does |
//! |---|---|
//! | [`allocate`] | which member of a group reads which queue |
//! | [`clock`] | the wall clock, the one door to it |
//! | [`properties`] | reader of Java properties files |
//! | [`config`] | tables of configuration keys: apply, print, suggest |
//! | [`json_file`] | JSON files that survive a crash while they are written |
//! | [`lifecycle`] | waiting for the signal to stop |
//! | [`logging`] | where log lines go |
//! | [`net`] | the address others reach this machine at |
//!
//! Nothing here knows a topic, a frame or a broker. A thing moves in only when two crates need it.

pub mod allocate;
pub mod clock;
pub mod config;
pub mod json_file;
pub mod lifecycle;
pub mod logging;
pub mod net;
pub mod properties;
