//! Sockets: server, client, connections.
