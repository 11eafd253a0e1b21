//! Writing of the `config/*.json` files, every few seconds and at shutdown.
