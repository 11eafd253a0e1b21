import java.nio.ByteBuffer;
import java.nio.charset.CharacterCodingException;
import java.nio.charset.StandardCharsets;
import java.util.ArrayList;
import java.util.Collection;
import java.util.HashSet;
import java.util.List;
import java.util.Map;
import java.util.Set;
import java.util.concurrent.ConcurrentHashMap;
import java.util.concurrent.CountDownLatch;
import java.util.concurrent.TimeUnit;
import java.util.zip.CRC32;
import org.apache.rocketmq.client.consumer.DefaultLitePullConsumer;
import org.apache.rocketmq.client.consumer.DefaultMQPullConsumer;
import org.apache.rocketmq.client.consumer.DefaultMQPushConsumer;
import org.apache.rocketmq.client.consumer.MessageSelector;
import org.apache.rocketmq.client.consumer.PullResult;
import org.apache.rocketmq.client.consumer.listener.ConsumeConcurrentlyStatus;
import org.apache.rocketmq.client.consumer.listener.ConsumeOrderlyStatus;
import org.apache.rocketmq.client.consumer.listener.MessageListenerConcurrently;
import org.apache.rocketmq.client.consumer.listener.MessageListenerOrderly;
import org.apache.rocketmq.client.exception.MQBrokerException;
import org.apache.rocketmq.client.exception.MQClientException;
import org.apache.rocketmq.client.producer.DefaultMQProducer;
import org.apache.rocketmq.client.producer.MessageQueueSelector;
import org.apache.rocketmq.client.producer.SendCallback;
import org.apache.rocketmq.client.producer.SendResult;
import org.apache.rocketmq.client.utils.MessageUtil;
import org.apache.rocketmq.common.consumer.ConsumeFromWhere;
import org.apache.rocketmq.common.message.Message;
import org.apache.rocketmq.common.message.MessageAccessor;
import org.apache.rocketmq.common.message.MessageExt;
import org.apache.rocketmq.common.message.MessageQueue;

/** Drives the official RocketMQ client of the remoting protocol by {@link Lines}. */
public final class Driver {
    private static final Map<String, DefaultMQProducer> PRODUCERS = new ConcurrentHashMap<>();
    private static final Map<String, DefaultMQPushConsumer> CONSUMERS = new ConcurrentHashMap<>();
    private static final Map<String, DefaultMQPullConsumer> PULLERS = new ConcurrentHashMap<>();
    private static final Map<String, DefaultLitePullConsumer> LITES = new ConcurrentHashMap<>();

    public static void main(String[] argv) throws Exception {
        Lines.serve(new Lines.Verbs() {
            @Override
            public void run(String verb, Args args, Lines.Answer answer) throws Exception {
                Driver.run(verb, args, answer);
            }

            @Override
            public Row failure(Row row, Throwable e) {
                return Driver.failure(row, e);
            }
        });
    }

    static Row failure(Row row, Throwable e) {
        Throwable cause = e;
        for (Throwable t = e; t != null; t = t.getCause()) {
            if (t instanceof MQBrokerException) {
                cause = t;
                row.put("code", ((MQBrokerException) t).getResponseCode());
                break;
            }
            if (t instanceof MQClientException && ((MQClientException) t).getResponseCode() != -1) {
                cause = t;
                row.put("code", ((MQClientException) t).getResponseCode());
                break;
            }
        }
        return row.put("error", cause.toString());
    }

    private static void run(String verb, Args args, Lines.Answer answer) throws Exception {
        switch (verb) {
            case "producer":
                producer(args);
                break;
            case "send":
                send(args, answer);
                break;
            case "request":
                answer.row(message((MessageExt) PRODUCERS.get(args.need("name"))
                        .request(build(Args.parse(args.need("m"))), args.num64("timeout", 10_000))));
                break;
            case "route":
                for (MessageQueue mq : PRODUCERS.get(args.need("name")).fetchPublishMessageQueues(args.need("topic"))) {
                    answer.row(new Row().put("broker", mq.getBrokerName()).put("queue", mq.getQueueId()));
                }
                break;
            case "bounds":
                bounds(args, answer);
                break;
            case "view":
                answer.row(message(PRODUCERS.get(args.need("name")).viewMessage(args.need("topic"), args.need("id"))));
                break;
            case "query":
                for (MessageExt m : PRODUCERS.get(args.need("name")).queryMessage(args.need("topic"), args.need("key"),
                        args.num("max", 32), args.num64("begin", 0), args.num64("end", Long.MAX_VALUE)).getMessageList()) {
                    answer.row(message(m));
                }
                break;
            case "consumer":
                consumer(args);
                break;
            case "owned":
                for (MessageQueue mq : CONSUMERS.get(args.need("name")).getDefaultMQPushConsumerImpl().getRebalanceImpl()
                        .getProcessQueueTable().keySet()) {
                    answer.row(new Row().put("topic", mq.getTopic()).put("queue", mq.getQueueId()));
                }
                break;
            case "puller": {
                DefaultMQPullConsumer puller = new DefaultMQPullConsumer(args.need("group"));
                puller.setNamesrvAddr(args.need("namesrv"));
                puller.setInstanceName(args.need("name"));
                puller.start();
                PULLERS.put(args.need("name"), puller);
                break;
            }
            case "pull":
                pull(args, answer);
                break;
            case "commit-offset": {
                DefaultMQPullConsumer puller = PULLERS.get(args.need("name"));
                MessageQueue mq = queue(args);
                puller.updateConsumeOffset(mq, args.num64("offset", 0));
                puller.getDefaultMQPullConsumerImpl().getOffsetStore().persistAll(java.util.Collections.singleton(mq));
                break;
            }
            case "committed":
                answer.row(new Row().put("offset",
                        PULLERS.get(args.need("name")).fetchConsumeOffset(queue(args), true)));
                break;
            case "lite": {
                DefaultLitePullConsumer lite = new DefaultLitePullConsumer(args.need("group"));
                lite.setNamesrvAddr(args.need("namesrv"));
                lite.setInstanceName(args.need("name"));
                lite.setConsumeFromWhere(ConsumeFromWhere.CONSUME_FROM_FIRST_OFFSET);
                lite.setAutoCommit(Boolean.parseBoolean(args.get("autocommit", "true")));
                lite.subscribe(args.need("topic"), args.get("expression", "*"));
                lite.start();
                LITES.put(args.need("name"), lite);
                break;
            }
            case "poll":
                for (MessageExt m : LITES.get(args.need("name")).poll(args.num64("timeout", 5000))) {
                    answer.row(message(m));
                }
                break;
            case "commit":
                LITES.get(args.need("name")).commitSync();
                break;
            case "transactional":
                Transactions.start(args);
                break;
            case "transact":
                Transactions.send(args, answer);
                break;
            case "fan":
                FanOut.run(args, answer);
                break;
            case "recall": {
                DefaultMQProducer producer = PRODUCERS.get(args.need("name"));
                // Not there in 4.9.
                Object id = producer.getClass().getMethod("recallMessage", String.class, String.class)
                        .invoke(producer, args.need("topic"), args.need("handle"));
                answer.row(new Row().put("id", id));
                break;
            }
            case "stop":
                stop(args.need("name"));
                break;
            default:
                throw new IllegalArgumentException("unknown verb " + verb);
        }
    }

    private static void stop(String name) {
        DefaultMQProducer producer = PRODUCERS.remove(name);
        if (producer != null) {
            producer.shutdown();
        }
        Transactions.stop(name);
        DefaultMQPushConsumer consumer = CONSUMERS.remove(name);
        if (consumer != null) {
            consumer.shutdown();
        }
        DefaultMQPullConsumer puller = PULLERS.remove(name);
        if (puller != null) {
            puller.shutdown();
        }
        DefaultLitePullConsumer lite = LITES.remove(name);
        if (lite != null) {
            lite.shutdown();
        }
    }

    private static MessageQueue queue(Args args) {
        return new MessageQueue(args.need("topic"), args.need("broker"), args.num("queue", 0));
    }

    private static void producer(Args args) throws Exception {
        DefaultMQProducer producer = new DefaultMQProducer(args.need("group"),
                Boolean.parseBoolean(args.get("trace", "false")), null);
        producer.setNamesrvAddr(args.need("namesrv"));
        producer.setInstanceName(args.need("name"));
        producer.setSendMsgTimeout(args.num("timeout", 5000));
        producer.setRetryTimesWhenSendFailed(args.num("retries", 2));
        producer.setRetryTimesWhenSendAsyncFailed(args.num("retries", 2));
        producer.setMaxMessageSize(args.num("maxsize", 4 * 1024 * 1024));
        producer.setCompressMsgBodyOverHowmuch(args.num("compressover", Integer.MAX_VALUE));
        producer.setDefaultTopicQueueNums(args.num("queues", 4));
        producer.setNamespace(args.get("namespace", null));
        producer.setPollNameServerInterval(args.num("poll", 30_000));
        producer.start();
        PRODUCERS.put(args.need("name"), producer);
    }

    static byte[] fill(int size, int seed) {
        byte[] body = new byte[size];
        for (int i = 0; i < size; i++) {
            body[i] = (byte) ((i * 31 + seed) % 251);
        }
        return body;
    }

    static Message build(Args a) {
        byte[] body = a.get("fill", null) != null ? fill(a.num("fill", 0), a.num("seed", 0))
                : a.get("body", "").getBytes(StandardCharsets.UTF_8);
        Message m = new Message(a.need("topic"), body);
        if (a.get("tags", null) != null) {
            m.setTags(a.get("tags", null));
        }
        if (a.get("keys", null) != null) {
            m.setKeys(a.get("keys", null));
        }
        m.setFlag(a.num("flag", 0));
        m.setWaitStoreMsgOK(Boolean.parseBoolean(a.get("wait", "true")));
        for (String key : a.keys()) {
            if (key.startsWith("s.")) {
                // Properties of the system, which users may not set by name.
                MessageAccessor.putProperty(m, key.substring(2), a.get(key, ""));
            }
            if (key.startsWith("p.")) {
                m.putUserProperty(key.substring(2), a.get(key, ""));
            }
        }
        return m;
    }

    static Row result(SendResult r) {
        return new Row().put("status", r.getSendStatus()).put("id", r.getMsgId()).put("offsetid", r.getOffsetMsgId())
                .put("queue", r.getMessageQueue().getQueueId()).put("broker", r.getMessageQueue().getBrokerName())
                .put("offset", r.getQueueOffset()).put("recall", recallHandle(r));
    }

    /** What a timer message is taken back with; 4.9 knows none. */
    private static Object recallHandle(SendResult r) {
        try {
            Object handle = r.getClass().getMethod("getRecallHandle").invoke(r);
            return handle == null ? "" : handle;
        } catch (ReflectiveOperationException e) {
            return "";
        }
    }

    /** Mode selector sends message {@code hash=h} to queue {@code h % mqs.size()}, the textbook's selector. */
    private static void send(Args args, Lines.Answer answer) throws Exception {
        DefaultMQProducer producer = PRODUCERS.get(args.need("name"));
        String mode = args.get("mode", "sync");
        long pace = args.num64("pace", 0);
        boolean tolerant = Boolean.parseBoolean(args.get("tolerant", "false"));
        List<Message> batch = new ArrayList<>();
        List<String> specs = args.all("m");
        CountDownLatch answered = new CountDownLatch(specs.size());
        final MessageQueueSelector byHash = new MessageQueueSelector() {
            @Override
            public MessageQueue select(List<MessageQueue> mqs, Message msg, Object arg) {
                return mqs.get((int) (((Long) arg) % mqs.size()));
            }
        };
        for (int i = 0; i < specs.size(); i++) {
            Args spec = Args.parse(specs.get(i));
            Message m = build(spec);
            final int index = i;
            try {
                switch (mode) {
                    case "sync":
                        if (spec.get("queue", null) != null) {
                            MessageQueue mq = new MessageQueue(m.getTopic(), spec.need("broker"), spec.num("queue", 0));
                            answer.row(result(producer.send(m, mq)).put("index", index));
                        } else {
                            answer.row(result(producer.send(m)).put("index", index));
                        }
                        break;
                    case "selector":
                        answer.row(result(producer.send(m, byHash, spec.num64("hash", 0))).put("index", index));
                        break;
                    case "oneway":
                        producer.sendOneway(m);
                        break;
                    case "batch":
                        batch.add(m);
                        break;
                    case "async":
                        producer.send(m, new SendCallback() {
                            @Override
                            public void onSuccess(SendResult r) {
                                answer.row(result(r).put("index", index));
                                answered.countDown();
                            }

                            @Override
                            public void onException(Throwable e) {
                                answer.row(failure(new Row().put("index", index), e));
                                answered.countDown();
                            }
                        });
                        break;
                    default:
                        throw new IllegalArgumentException("unknown mode " + mode);
                }
            } catch (Exception e) {
                if (!tolerant) {
                    throw e;
                }
                answer.row(failure(new Row().put("index", index), e));
            }
            if (pace > 0) {
                Thread.sleep(pace);
            }
        }
        if (mode.equals("batch")) {
            answer.row(result(producer.send((Collection<Message>) batch)));
        }
        if (mode.equals("async") && !answered.await(60, TimeUnit.SECONDS)) {
            throw new IllegalStateException(answered.getCount() + " callbacks never came");
        }
    }

    private static void bounds(Args args, Lines.Answer answer) throws Exception {
        DefaultMQProducer producer = PRODUCERS.get(args.need("name"));
        MessageQueue mq = queue(args);
        Row row = new Row().put("min", producer.minOffset(mq)).put("max", producer.maxOffset(mq))
                .put("earliest", producer.earliestMsgStoreTime(mq));
        if (args.get("time", null) != null) {
            row.put("at", producer.searchOffset(mq, args.num64("time", 0)));
        }
        answer.row(row);
    }

    static Row message(MessageExt m) {
        Row row = new Row();
        if (m == null) {
            return row.put("absent", true);
        }
        byte[] body = m.getBody() == null ? new byte[0] : m.getBody();
        CRC32 crc = new CRC32();
        crc.update(body);
        row.put("topic", m.getTopic()).put("broker", m.getBrokerName()).put("queue", m.getQueueId()).put("offset", m.getQueueOffset())
                .put("len", body.length).put("crc", crc.getValue()).put("id", m.getMsgId()).put("flag", m.getFlag())
                .put("sysflag", m.getSysFlag()).put("born", m.getBornTimestamp()).put("stored", m.getStoreTimestamp())
                .put("bornhost", m.getBornHostString()).put("storehost", String.valueOf(m.getStoreHost()).replace("/", ""))
                .put("reconsume", m.getReconsumeTimes()).put("tags", m.getTags()).put("keys", m.getKeys())
                .put("physical", m.getCommitLogOffset()).put("bodycrc", m.getBodyCRC());
        if (body.length <= 8192) {
            try {
                row.put("body", StandardCharsets.UTF_8.newDecoder().decode(ByteBuffer.wrap(body)));
            } catch (CharacterCodingException e) {
                row.put("binary", true);
            }
        }
        for (Map.Entry<String, String> p : m.getProperties().entrySet()) {
            row.put("p." + p.getKey(), p.getValue());
        }
        return row;
    }

    /** All of a message, or only where it is. */
    private static Row shown(MessageExt m, boolean brief) {
        return brief ? new Row().put("queue", m.getQueueId()).put("offset", m.getQueueOffset()) : message(m);
    }

    private static void consumer(Args args) throws Exception {
        String name = args.need("name");
        DefaultMQPushConsumer consumer = new DefaultMQPushConsumer(args.need("group"),
                Boolean.parseBoolean(args.get("trace", "false")), null);
        consumer.setNamesrvAddr(args.need("namesrv"));
        consumer.setInstanceName(args.get("instance", name));
        consumer.setConsumeFromWhere(ConsumeFromWhere.valueOf("CONSUME_FROM_" + args.get("from", "FIRST_OFFSET")));
        consumer.setConsumeThreadMin(args.num("threads", 4));
        consumer.setConsumeThreadMax(args.num("threads", 4));
        consumer.setConsumeMessageBatchMaxSize(args.num("batch", 1));
        consumer.setPersistConsumerOffsetInterval(args.num("persist", 1000));
        Model.set(consumer, args.get("model", "CLUSTERING"));
        consumer.setNamespace(args.get("namespace", null));
        consumer.setUnitMode(Boolean.parseBoolean(args.get("unit", "false")));
        consumer.setPollNameServerInterval(args.num("poll", 30_000));
        // At its end it waits so long for its listener.
        consumer.setAwaitTerminationMillisWhenShutdown(args.num64("await", 0));
        final boolean brief = Boolean.parseBoolean(args.get("brief", "false"));
        // How long the listener takes for a message.
        final int pause = args.num("pause", 0);
        if (args.keys().contains("pop")) {
            Model.rebalanceAtBroker(consumer, args.num64("pop", 60000));
        }
        if (args.get("sql", null) != null) {
            consumer.subscribe(args.need("topic"), MessageSelector.bySql(args.need("sql")));
        } else {
            consumer.subscribe(args.need("topic"), args.get("expression", "*"));
        }
        final long laterFirst = args.num64("later", 0);
        final Set<String> later = new HashSet<>();
        consumer.setMaxReconsumeTimes(args.num("maxreconsume", -1));
        // Every message is asked for again until it has come so often.
        final int failing = args.num("fail", 0);
        final long suspendFirst = args.num64("suspend", 0);
        final Set<String> suspended = new HashSet<>();
        // The producer that answers each message.
        final String replier = args.get("replier", null);
        if (args.get("mode", "concurrent").equals("orderly")) {
            consumer.registerMessageListener((MessageListenerOrderly) (messages, context) -> {
                for (MessageExt m : messages) {
                    final long from = System.currentTimeMillis();
                    sleep(pause);
                    if (isAmongFirst(suspendFirst, m.getQueueId() + ":" + m.getQueueOffset(), suspended)) {
                        context.setSuspendCurrentQueueTimeMillis(50);
                        return ConsumeOrderlyStatus.SUSPEND_CURRENT_QUEUE_A_MOMENT;
                    }
                    Lines.line("event " + name + " " + shown(m, brief).put("from", from).put("at", System.currentTimeMillis()));
                    if (m.getReconsumeTimes() < failing) {
                        context.setSuspendCurrentQueueTimeMillis(50);
                        return ConsumeOrderlyStatus.SUSPEND_CURRENT_QUEUE_A_MOMENT;
                    }
                }
                return ConsumeOrderlyStatus.SUCCESS;
            });
        } else {
            consumer.registerMessageListener((MessageListenerConcurrently) (messages, context) -> {
                boolean again = false;
                for (MessageExt m : messages) {
                    sleep(pause);
                    if (isAmongFirst(laterFirst, m.getMsgId(), later)) {
                        return ConsumeConcurrentlyStatus.RECONSUME_LATER;
                    }
                    Lines.line("event " + name + " " + shown(m, brief).put("at", System.currentTimeMillis()));
                    again |= m.getReconsumeTimes() < failing;
                    if (replier != null) {
                        reply(PRODUCERS.get(replier), m);
                    }
                }
                return again ? ConsumeConcurrentlyStatus.RECONSUME_LATER : ConsumeConcurrentlyStatus.CONSUME_SUCCESS;
            });
        }
        consumer.start();
        CONSUMERS.put(name, consumer);
        if (args.get("further", null) != null) {
            // Subscribed to while it runs.
            consumer.subscribe(args.need("further"), "*");
        }
    }

    /** Whether a message is one of the first so many that a listener meets; the threads of a listener ask at once. */
    private static boolean isAmongFirst(long first, String id, Set<String> met) {
        synchronized (met) {
            return met.size() < first && met.add(id);
        }
    }

    private static void sleep(int millis) {
        try {
            Thread.sleep(millis);
        } catch (InterruptedException e) {
            Thread.currentThread().interrupt();
        }
    }

    private static void reply(DefaultMQProducer producer, MessageExt request) {
        try {
            String body = "reply to " + new String(request.getBody(), StandardCharsets.UTF_8);
            SendResult sent = producer.send(MessageUtil.createReplyMessage(request, body.getBytes(StandardCharsets.UTF_8)));
            Lines.line("event replies " + new Row().put("status", sent.getSendStatus()).put("body", body));
        } catch (Exception e) {
            Lines.line("event replies " + failure(new Row(), e));
        }
    }

    private static void pull(Args args, Lines.Answer answer) throws Exception {
        DefaultMQPullConsumer puller = PULLERS.get(args.need("name"));
        PullResult result = puller.pull(queue(args), args.get("expression", "*"), args.num64("offset", 0), args.num("max", 32));
        if (result.getMsgFoundList() != null) {
            for (MessageExt m : result.getMsgFoundList()) {
                answer.row(message(m));
            }
        }
        answer.row(new Row().put("status", result.getPullStatus()).put("next", result.getNextBeginOffset())
                .put("min", result.getMinOffset()).put("max", result.getMaxOffset()));
    }
}
