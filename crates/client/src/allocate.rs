//! Which member of a group reads which queue: RocketMQ's `AllocateMessageQueueAveragely`. A pure function, since every
//! member computes it for itself and all have to agree.

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

#[cfg(test)]
mod tests {
    use super::*;

    fn shares(queues: usize, members: usize) -> Vec<Vec<usize>> {
        let queues: Vec<usize> = (0..queues).collect();
        let members: Vec<String> = (0..members).map(|m| format!("m{m:03}")).collect();
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

    proptest::proptest! {
        #[test]
        fn every_queue_has_exactly_one_reader(queues in 0usize..200, members in 1usize..60) {
            let shares = shares(queues, members);
            let all: Vec<usize> = shares.iter().flatten().copied().collect();
            assert_eq!(all, (0..queues).collect::<Vec<_>>());
            let sizes = shares.iter().map(Vec::len);
            assert!(sizes.clone().max().unwrap() - sizes.min().unwrap() <= 1);
        }
    }
}
