//! Other requests of `mqadmin`: codes 26, 315, 323, 3001-3010.

use super::headers;
use crate::command::Text;

headers! {
    /// Answer to GET_BROKER_CONFIG; the body is a properties text.
    GetBrokerConfigResponseHeader<'a> {
        /// `DataVersion` as JSON.
        version: Text<'a> = "version",
    }

    /// VIEW_BROKER_STATS_DATA.
    ViewBrokerStatsDataHeader<'a> {
        stats_name: Text<'a> = "statsName",
        stats_key: Text<'a> = "statsKey",
    }

    /// RESUME_CHECK_HALF_MESSAGE.
    ResumeCheckHalfMessageHeader<'a> {
        topic: Option<Text<'a>> = "topic",
        msg_id: Option<Text<'a>> = "msgId",
    }

    /// AUTH_CREATE_USER, AUTH_UPDATE_USER, AUTH_DELETE_USER and AUTH_GET_USER.
    UserHeader<'a> {
        username: Option<Text<'a>> = "username",
    }

    /// AUTH_LIST_USER.
    ListUsersHeader<'a> {
        filter: Option<Text<'a>> = "filter",
    }

    /// AUTH_CREATE_ACL, AUTH_UPDATE_ACL, AUTH_DELETE_ACL and AUTH_GET_ACL.
    AclHeader<'a> {
        subject: Option<Text<'a>> = "subject",
        policy_type: Option<Text<'a>> = "policyType",
        resource: Option<Text<'a>> = "resource",
    }

    /// AUTH_LIST_ACL.
    ListAclsHeader<'a> {
        subject_filter: Option<Text<'a>> = "subjectFilter",
        resource_filter: Option<Text<'a>> = "resourceFilter",
    }
}
