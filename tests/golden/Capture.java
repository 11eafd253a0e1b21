import java.nio.charset.StandardCharsets;
import java.util.*;
import java.util.concurrent.*;
import org.apache.rocketmq.client.consumer.*;
import org.apache.rocketmq.client.consumer.listener.*;
import org.apache.rocketmq.client.producer.*;
import org.apache.rocketmq.common.*;
import org.apache.rocketmq.common.consumer.ConsumeFromWhere;
import org.apache.rocketmq.common.message.*;
import org.apache.rocketmq.remoting.protocol.heartbeat.MessageModel;
import org.apache.rocketmq.remoting.protocol.subscription.SubscriptionGroupConfig;
import org.apache.rocketmq.tools.admin.DefaultMQAdminExt;

/** Makes the official client and admin library send one request of each usual kind. Arguments: NameServer, broker. */
public class Capture {
    interface Step { void run() throws Exception; }

    static void step(String name, Step step) {
        try {
            step.run();
        } catch (Throwable t) {
            System.out.println(name + ": " + t);
        }
    }

    static byte[] bytes(String text) {
        return text.getBytes(StandardCharsets.UTF_8);
    }

    static DefaultMQPushConsumer consumer(String group, String ns, MessageListenerConcurrently listener) throws Exception {
        DefaultMQPushConsumer consumer = new DefaultMQPushConsumer(group);
        consumer.setNamesrvAddr(ns);
        consumer.setInstanceName(group);
        consumer.setConsumeFromWhere(ConsumeFromWhere.CONSUME_FROM_FIRST_OFFSET);
        consumer.registerMessageListener(listener);
        return consumer;
    }

    public static void main(String[] args) throws Exception {
        String ns = args[0], broker = args[1];
        DefaultMQAdminExt admin = new DefaultMQAdminExt(20000);
        admin.setNamesrvAddr(ns);
        admin.setInstanceName("admin");
        admin.start();
        TopicConfig topic = new TopicConfig("Golden", 4, 4);
        topic.getAttributes().put("+message.type", "NORMAL");
        step("createTopic", () -> admin.createAndUpdateTopicConfig(broker, topic));
        step("createTopicList", () -> admin.createAndUpdateTopicConfigList(broker, List.of(new TopicConfig("Golden2", 1, 1))));
        SubscriptionGroupConfig group = new SubscriptionGroupConfig();
        group.setGroupName("golden_group");
        step("createGroup", () -> admin.createAndUpdateSubscriptionGroupConfig(broker, group));
        Thread.sleep(2000);

        TransactionMQProducer producer = new TransactionMQProducer("golden_producer");
        producer.setNamesrvAddr(ns);
        producer.setInstanceName("producer");
        producer.setTransactionListener(new TransactionListener() {
            public LocalTransactionState executeLocalTransaction(Message m, Object arg) {
                return (LocalTransactionState) arg;
            }
            public LocalTransactionState checkLocalTransaction(MessageExt m) {
                return LocalTransactionState.COMMIT_MESSAGE;
            }
        });
        producer.start();
        Message message = new Message("Golden", "TagA", "key1 key2", bytes("hello \u4e2d\u6587 \ud83d\ude00"));
        message.putUserProperty("color", "gr\u00fcn \"quoted\" \\ \u4e2d");
        SendResult sent = producer.send(message);
        MessageQueue queue = new MessageQueue("Golden", "broker-a", 0);
        step("send to queue", () -> producer.send(new Message("Golden", "TagB", bytes("second")), queue));
        step("oneway", () -> producer.sendOneway(new Message("Golden", "TagA", bytes("oneway"))));
        step("batch", () -> producer.send(List.of(new Message("Golden", "TagA", bytes("b1")), new Message("Golden", "TagA", bytes("b2")))));
        Message delayed = new Message("Golden", "TagA", bytes("later"));
        delayed.setDelayTimeSec(3600);
        step("recall", () -> {
            SendResult timed = producer.send(delayed);
            System.out.println(producer.recallMessage("Golden", timed.getRecallHandle()));
        });
        step("auto create", () -> producer.send(new Message("GoldenAuto", bytes("x"))));
        step("illegal", () -> producer.getDefaultMQProducerImpl().getMqClientFactory().getMQClientAPIImpl()
            .getMaxOffset(broker, new MessageQueue("NoSuchTopic", "broker-a", 0), 3000));
        for (LocalTransactionState state : LocalTransactionState.values()) {
            step("transaction", () -> producer.sendMessageInTransaction(new Message("Golden2", "T", bytes(state.name())), state));
        }

        CountDownLatch first = new CountDownLatch(2);
        Set<String> failed = ConcurrentHashMap.newKeySet();
        DefaultMQPushConsumer push = consumer("golden_group", ns, (messages, context) -> {
            first.countDown();
            return failed.add(messages.get(0).getMsgId()) && failed.size() == 1
                ? ConsumeConcurrentlyStatus.RECONSUME_LATER : ConsumeConcurrentlyStatus.CONSUME_SUCCESS;
        });
        push.subscribe("Golden", "TagA || TagB");
        push.start();
        first.await(20, TimeUnit.SECONDS);
        DefaultMQPushConsumer sql = consumer("golden_sql", ns, (messages, context) -> ConsumeConcurrentlyStatus.CONSUME_SUCCESS);
        sql.subscribe("Golden", MessageSelector.bySql("color is not null and a > 5"));
        step("sql", sql::start);
        DefaultMQPushConsumer ordered = new DefaultMQPushConsumer("golden_ordered");
        ordered.setNamesrvAddr(ns);
        ordered.setInstanceName("ordered");
        ordered.subscribe("Golden", "*");
        ordered.registerMessageListener((MessageListenerOrderly) (messages, context) -> ConsumeOrderlyStatus.SUCCESS);
        ordered.start();
        DefaultMQPushConsumer broadcast = consumer("golden_broadcast", ns, (messages, context) -> ConsumeConcurrentlyStatus.CONSUME_SUCCESS);
        broadcast.setMessageModel(MessageModel.BROADCASTING);
        broadcast.subscribe("Golden", "*");
        broadcast.start();
        step("mode", () -> admin.setMessageRequestMode(broker, "Golden", "golden_pop", MessageRequestMode.POP, 0, 10000));
        DefaultMQPushConsumer pop = consumer("golden_pop", ns, (messages, context) -> ConsumeConcurrentlyStatus.CONSUME_SUCCESS);
        pop.setClientRebalance(false);
        pop.subscribe("Golden", "*");
        step("pop", pop::start);
        step("request reply", () -> {
            DefaultMQPushConsumer replier = consumer("golden_replier", ns, (messages, context) -> {
                try {
                    producer.send(org.apache.rocketmq.client.utils.MessageUtil.createReplyMessage(messages.get(0), bytes("reply")));
                } catch (Exception e) {
                    System.out.println("reply: " + e);
                }
                return ConsumeConcurrentlyStatus.CONSUME_SUCCESS;
            });
            replier.subscribe("Golden2", "ask");
            replier.start();
            producer.getDefaultMQProducerImpl().getMqClientFactory().sendHeartbeatToAllBrokerWithLock();
            Thread.sleep(3000);
            System.out.println(producer.request(new Message("Golden2", "ask", bytes("ask")), 10000).getBody().length);
            replier.shutdown();
        });
        DefaultLitePullConsumer lite = new DefaultLitePullConsumer("golden_lite");
        lite.setNamesrvAddr(ns);
        lite.setInstanceName("lite");
        lite.subscribe("Golden", "*");
        lite.start();
        lite.poll(3000);
        lite.commit();
        Thread.sleep(8000);

        step("offsets", () -> System.out.println(admin.maxOffset(queue) + " " + admin.minOffset(queue) + " "
            + admin.searchOffset(queue, System.currentTimeMillis()) + " " + admin.earliestMsgStoreTime(queue)));
        step("by key", () -> admin.queryMessage("Golden", "key1", 10, 0, System.currentTimeMillis()));
        step("by unique key", () -> admin.viewMessage("Golden", sent.getMsgId()));
        step("by offset id", () -> admin.viewMessage("Golden", sent.getOffsetMsgId()));
        step("no such id", () -> admin.viewMessage("Golden", "7F00000100007" + "8C9" + "0000000000FFFFFF"));
        step("topic stats", () -> admin.examineTopicStats("Golden"));
        step("consume stats", () -> admin.examineConsumeStats("golden_group"));
        step("consumer connection", () -> admin.examineConsumerConnectionInfo("golden_group"));
        step("no consumer connection", () -> admin.examineConsumerConnectionInfo("nobody"));
        step("producer connection", () -> admin.examineProducerConnectionInfo("golden_producer", "Golden"));
        step("all producers", () -> admin.getAllProducerInfo(broker));
        step("cluster", admin::examineBrokerClusterInfo);
        step("topics", admin::fetchAllTopicList);
        step("topics by cluster", () -> admin.fetchTopicsByCLuster("DefaultCluster"));
        step("route", () -> admin.examineTopicRouteInfo("Golden"));
        step("no route", () -> admin.examineTopicRouteInfo("NoSuchTopic"));
        step("topic config", () -> admin.examineTopicConfig(broker, "Golden"));
        step("group config", () -> admin.examineSubscriptionGroupConfig(broker, "golden_group"));
        step("all topic config", () -> admin.getAllTopicConfig(broker, 10000));
        step("all groups", () -> admin.getAllSubscriptionGroup(broker, 10000));
        step("who consumes", () -> admin.queryTopicConsumeByWho("Golden"));
        step("topics of group", () -> admin.queryTopicsByConsumer("golden_group"));
        step("subscription", () -> admin.querySubscription("golden_group", "Golden"));
        step("runtime", () -> admin.fetchBrokerRuntimeStats(broker));
        step("config", () -> admin.getBrokerConfig(broker));
        step("update config", () -> {
            Properties properties = new Properties();
            properties.setProperty("sendThreadPoolQueueCapacity", "10001");
            admin.updateBrokerConfig(broker, properties);
        });
        step("stats data", () -> admin.viewBrokerStatsData(broker, "TOPIC_PUT_NUMS", "Golden"));
        step("broker consume stats", () -> admin.fetchConsumeStatsInBroker(broker, false, 10000));
        step("ha status", () -> admin.getBrokerHAStatus(broker));
        step("consume queue", () -> admin.queryConsumeQueue(broker, "Golden", 0, 0, 10, "golden_group"));
        step("time span", () -> admin.queryConsumeTimeSpan("Golden", "golden_group"));
        String clientId = push.getDefaultMQPushConsumerImpl().getmQClientFactory().getClientId();
        step("running info", () -> admin.getConsumerRunningInfo("golden_group", clientId, false));
        step("consume directly", () -> admin.consumeMessageDirectly("golden_group", clientId, "Golden", sent.getMsgId()));
        step("consumer status", () -> admin.getConsumeStatus("Golden", "golden_group", clientId));
        step("reset offset", () -> admin.resetOffsetByTimestamp("Golden", "golden_group", 0, true));
        step("reset offset old", () -> admin.resetOffsetByTimestampOld("golden_lite", "Golden", 0, true));
        step("clone offset", () -> admin.cloneGroupOffset("golden_group", "golden_sql", "Golden", true));
        step("kv", () -> {
            admin.createAndUpdateKvConfig("ORDER_TOPIC_CONFIG", "Golden", "broker-a:4");
            admin.getKVConfig("ORDER_TOPIC_CONFIG", "Golden");
            admin.getKVListByNamespace("ORDER_TOPIC_CONFIG");
            admin.deleteKvConfig("ORDER_TOPIC_CONFIG", "Golden");
        });
        step("no kv", () -> admin.getKVConfig("ORDER_TOPIC_CONFIG", "Golden"));
        step("wipe", () -> System.out.println(admin.wipeWritePermOfBroker(ns, "broker-a") + " " + admin.addWritePermOfBroker(ns, "broker-a")));
        step("namesrv config", () -> admin.getNameServerConfig(List.of(ns)));
        step("system topics", () -> admin.getAllTopicConfig(broker, 10000));
        step("clean", () -> {
            admin.cleanExpiredConsumerQueueByAddr(broker);
            admin.cleanUnusedTopicByAddr(broker);
            admin.deleteExpiredCommitLogByAddr(broker);
        });
        Thread.sleep(4000);
        pop.shutdown();
        lite.shutdown();
        ordered.shutdown();
        broadcast.shutdown();
        sql.shutdown();
        push.shutdown();
        producer.shutdown();
        step("delete group", () -> admin.deleteSubscriptionGroup(broker, "golden_sql", true));
        step("delete topic in broker", () -> admin.deleteTopicInBroker(Set.of(broker), "Golden2"));
        step("delete topic in name server", () -> admin.deleteTopicInNameServer(Set.of(ns), "Golden2"));
        admin.shutdown();
        System.exit(0);
    }
}
