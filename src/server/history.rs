//! Which topics the configuration keeps for a shorter time than others.

use anyhow::Context;
use bytes::Bytes;

use crate::config::History;
use crate::model::Filter;
use crate::partition::TopicAges;

/// What does not name ordinary topics: queues keep by their own rules, and the others are ways to subscribe.
const NOT_TOPICS: [&str; 3] = ["$queue/", "$share/", "$replay/"];

/// Reads the ages of topics; an error names the place in the configuration.
pub(super) fn topic_ages(history: &History) -> anyhow::Result<TopicAges> {
    let mut ages = Vec::with_capacity(history.topics.len());
    for (index, topics) in history.topics.iter().enumerate() {
        let of = || format!("history.topics.{index}.filter '{}'", topics.filter);
        let filter = Filter::new(Bytes::from(topics.filter.clone())).with_context(of)?;
        anyhow::ensure!(
            !NOT_TOPICS.iter().any(|prefix| topics.filter.starts_with(prefix)),
            "{}: this is no topic; write the filter of what is published, and limit a queue where it is declared",
            of()
        );
        ages.push((filter, u64::from(topics.age_max_s) * 1000));
    }
    Ok(TopicAges::new(ages))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::HistoryTopics;

    #[test]
    fn what_names_no_topics_is_refused_with_its_place() {
        let read = |filter: &str| {
            let topics = HistoryTopics { filter: filter.to_owned(), age_max_s: 1 };
            let good = HistoryTopics { filter: "a".to_owned(), age_max_s: 1 };
            let history = History { topics: vec![good, topics], ..History::default() };
            topic_ages(&history).map(drop).map_err(|error| format!("{error:#}"))
        };
        assert_eq!(read("debug/+/#"), Ok(()));
        for filter in ["", "a/#/b", "a+", "$queue/jobs", "$share/g/a", "$replay/earliest/a"] {
            let error = read(filter).unwrap_err();
            assert!(error.starts_with(&format!("history.topics.1.filter '{filter}'")), "{error}");
        }
    }
}
