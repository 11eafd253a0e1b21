//! Registration of this broker with its name servers.
