//! Which member of a group reads which queue: RocketMQ's `AllocateMessageQueueAveragely` and
//! `AllocateMessageQueueAveragelyByCircle`. Pure functions: clients compute their share with them, and brokers that of a
//! client; all have to agree.

/// The share of `client_id` in `queues`, both lists sorted by the caller: neighbouring queues, the first members one
/// queue more when they do not divide. Empty when `client_id` is not among `members`.
pub fn averagely<'q, Q>(client_id: &str, queues: &'q [Q], members: &[String]) -> &'q [Q] {
    let Some(index) = members.iter().position(|m| m == client_id) else {
        return &[];
    };
    let (each, rest) = (queues.len() / members.len(), queues.len() % members.len());
    let start = index * each + index.min(rest);
    let len = each + usize::from(index < rest);
    &queues[start..start + len]
}

/// The share of `client_id` when queues are dealt out one by one, like cards.
pub fn by_circle<'q, Q>(client_id: &str, queues: &'q [Q], members: &[String]) -> Vec<&'q Q> {
    let Some(index) = members.iter().position(|m| m == client_id) else {
        return Vec::new();
    };
    queues.iter().skip(index).step_by(members.len()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn members(count: usize) -> Vec<String> {
        (0..count).map(|m| format!("m{m:03}")).collect()
    }

    fn shares(queues: usize, count: usize) -> Vec<Vec<usize>> {
        let queues: Vec<usize> = (0..queues).collect();
        let members = members(count);
        members.iter().map(|m| averagely(m, &queues, &members).to_vec()).collect()
    }

    #[test]
    fn as_java_shares_them() {
        assert_eq!(shares(8, 3), [vec![0, 1, 2], vec![3, 4, 5], vec![6, 7]]);
        assert_eq!(shares(2, 3), [vec![0], vec![1], vec![]]);
        assert_eq!(shares(4, 1), [vec![0, 1, 2, 3]]);
        assert_eq!(shares(0, 2), [vec![], Vec::<usize>::new()]);
        assert!(averagely("stranger", &[1, 2], &["m".to_owned()]).is_empty());
        assert!(averagely("stranger", &[1, 2], &[]).is_empty());
    }

    #[test]
    fn a_circle_deals_them_out() {
        let members = members(3);
        let share = |m: usize| by_circle(&members[m], &[0, 1, 2, 3, 4, 5, 6, 7], &members);
        assert_eq!((share(0), share(1), share(2)), (vec![&0, &3, &6], vec![&1, &4, &7], vec![&2, &5]));
        assert!(by_circle("stranger", &[1], &members).is_empty() && by_circle("m002", &[1, 2], &members).is_empty());
    }

    #[test]
    fn every_queue_has_exactly_one_reader() {
        for (queues, count) in (0..40).flat_map(|queues| (1..20).map(move |count| (queues, count))) {
            let shares = shares(queues, count);
            let all: Vec<usize> = shares.iter().flatten().copied().collect();
            assert_eq!(all, (0..queues).collect::<Vec<_>>());
            let sizes = shares.iter().map(Vec::len);
            assert!(sizes.clone().max().unwrap() - sizes.min().unwrap() <= 1);
        }
    }
}
