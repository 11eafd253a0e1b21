//! How much of clients is kept.

/// Most groups with connected consumers, and as many with producers.
pub const MAX_CLIENT_GROUPS: usize = 100_000;
/// Most connected clients of one group.
pub const MAX_CLIENTS_PER_GROUP: usize = 10_000;
/// Most groups one connection may speak for.
pub const MAX_GROUPS_PER_CONNECTION: usize = 10_000;
/// Most members of all groups: a client counts in each of its groups.
pub const MAX_MEMBERS: usize = 1_000_000;
/// Most topics one group may subscribe to.
pub const MAX_SUBSCRIPTIONS_PER_GROUP: usize = 10_000;
/// Most text of subscriptions kept for all groups, bytes.
pub const MAX_SUBSCRIPTION_BYTES: usize = 256 * 1024 * 1024;
/// Longest client id, bytes.
pub const MAX_CLIENT_ID_BYTES: usize = 1024;
/// Most requests of tools that wait for the answer of a consumer.
pub(super) const MAX_RELAYS: usize = 256;
/// Most replies on their way to producers.
pub(super) const MAX_REPLIES: usize = 4096;

/// Why a client was not recorded.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ClientsFull {
    #[error("the broker serves {MAX_CLIENT_GROUPS} groups already")]
    Groups,
    #[error("the group has {MAX_CLIENTS_PER_GROUP} clients already")]
    Clients,
    #[error("one connection may speak for {MAX_GROUPS_PER_CONNECTION} groups at most")]
    GroupsOfConnection,
    #[error("all groups together have {MAX_MEMBERS} members already")]
    Members,
    #[error("one group may subscribe to {MAX_SUBSCRIPTIONS_PER_GROUP} topics at most")]
    Subscriptions,
    #[error("the subscriptions of all groups are limited to {MAX_SUBSCRIPTION_BYTES} bytes of text")]
    SubscriptionBytes,
}
