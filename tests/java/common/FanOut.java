import java.nio.ByteBuffer;
import java.util.ArrayList;
import java.util.BitSet;
import java.util.List;
import java.util.Set;
import java.util.TreeSet;
import java.util.concurrent.atomic.AtomicBoolean;
import java.util.concurrent.atomic.AtomicLong;
import org.apache.rocketmq.client.consumer.DefaultMQPushConsumer;
import org.apache.rocketmq.client.consumer.listener.ConsumeConcurrentlyStatus;
import org.apache.rocketmq.client.consumer.listener.ConsumeOrderlyStatus;
import org.apache.rocketmq.client.consumer.listener.MessageListenerConcurrently;
import org.apache.rocketmq.client.consumer.listener.MessageListenerOrderly;
import org.apache.rocketmq.client.exception.MQBrokerException;
import org.apache.rocketmq.client.producer.DefaultMQProducer;
import org.apache.rocketmq.client.producer.SendResult;
import org.apache.rocketmq.client.producer.SendStatus;
import org.apache.rocketmq.common.consumer.ConsumeFromWhere;
import org.apache.rocketmq.common.message.Message;
import org.apache.rocketmq.common.message.MessageExt;
import org.apache.rocketmq.common.message.MessageQueue;

/**
 * Many producers over the queues of one topic to two groups of consumers, checked here, message by message: each group
 * must get the full set, nothing twice, and each queue in the order of its offsets and of each producer's sends.
 */
final class FanOut {
    private static final long NANOS = 1_000_000_000L;

    /** What one group has received. Bodies are producer number and sequence number. */
    private static final class Group {
        final String name;
        final BitSet[] seen;
        final long[][] lastOfProducer;
        final long[] lastOffset;
        final AtomicLong received = new AtomicLong();
        final AtomicLong duplicates = new AtomicLong();
        final AtomicLong disorder = new AtomicLong();
        final int[] perConsumer;
        final List<String> oddities = new ArrayList<>();

        Group(String name, int producers, int queues, int consumers) {
            this.name = name;
            seen = new BitSet[producers];
            for (int i = 0; i < producers; i++) {
                seen[i] = new BitSet();
            }
            lastOfProducer = new long[queues][producers];
            lastOffset = new long[queues];
            for (int q = 0; q < queues; q++) {
                java.util.Arrays.fill(lastOfProducer[q], -1);
                lastOffset[q] = -1;
            }
            perConsumer = new int[consumers];
        }

        void take(List<MessageExt> messages, int consumer) {
            for (MessageExt m : messages) {
                ByteBuffer body = ByteBuffer.wrap(m.getBody());
                int producer = body.getInt();
                int sequence = body.getInt();
                int queue = m.getQueueId();
                synchronized (lastOfProducer[queue]) {
                    if (m.getQueueOffset() != lastOffset[queue] + 1 || sequence <= lastOfProducer[queue][producer]) {
                        disorder.incrementAndGet();
                        if (oddities.size() < 8) {
                            oddities.add("consumer " + consumer + " got queue " + queue + " offset " + m.getQueueOffset() + " after "
                                    + lastOffset[queue] + " at " + System.currentTimeMillis());
                        }
                    }
                    lastOffset[queue] = m.getQueueOffset();
                    lastOfProducer[queue][producer] = sequence;
                    perConsumer[consumer]++;
                }
                synchronized (seen[producer]) {
                    if (seen[producer].get(sequence)) {
                        duplicates.incrementAndGet();
                    }
                    seen[producer].set(sequence);
                }
                received.incrementAndGet();
            }
        }

        long distinct() {
            long all = 0;
            for (BitSet set : seen) {
                synchronized (set) {
                    all += set.cardinality();
                }
            }
            return all;
        }
    }

    static void run(Args args, Lines.Answer answer) throws Exception {
        String namesrv = args.need("namesrv");
        String topic = args.need("topic");
        int producers = args.num("producers", 8);
        int consumers = args.num("consumers", 8);
        int queues = args.num("queues", 8);
        int batchSize = args.num("batch", 1);
        int each = args.num("total", 1_000_000) / producers;
        long total = (long) each * producers;
        long deadline = System.nanoTime() + args.num64("seconds", 300) * NANOS;

        Group[] groups = {new Group(topic + "-orderly", producers, queues, consumers),
            new Group(topic + "-concurrent", producers, queues, consumers)};
        List<DefaultMQPushConsumer> running = new ArrayList<>();
        for (int g = 0; g < groups.length; g++) {
            for (int c = 0; c < consumers; c++) {
                running.add(start(groups[g], c, g == 0, namesrv, topic));
            }
        }
        // Every consumer owns its share before the first message, so that no re-assignment can repeat one.
        String owners = owners(running, topic);
        for (int quiet = 0; quiet < 20; Thread.sleep(100)) {
            if (System.nanoTime() > deadline) {
                throw new IllegalStateException("the queues were never shared out evenly: " + owners);
            }
            String before = owners;
            owners = owners(running, topic);
            quiet = owners.equals(before) && even(running, topic, consumers, queues) ? quiet + 1 : 0;
        }

        long started = System.nanoTime();
        AtomicLong sent = new AtomicLong();
        AtomicBoolean failed = new AtomicBoolean();
        List<String> failures = new ArrayList<>();
        List<Thread> threads = new ArrayList<>();
        for (int p = 0; p < producers; p++) {
            final int number = p;
            Thread thread = new Thread(() -> {
                try {
                    produce(number, each, batchSize, queues, namesrv, topic, sent, failed);
                } catch (Throwable e) {
                    failed.set(true);
                    synchronized (failures) {
                        failures.add("producer " + number + ": " + e);
                    }
                }
            });
            thread.start();
            threads.add(thread);
        }
        for (Thread thread : threads) {
            thread.join();
        }
        if (!failures.isEmpty()) {
            throw new IllegalStateException(failures.toString());
        }
        long allSent = System.nanoTime();
        while (System.nanoTime() < deadline && (groups[0].received.get() < total || groups[1].received.get() < total)) {
            Thread.sleep(50);
        }
        long allReceived = System.nanoTime();
        Thread.sleep(1000);
        boolean moved = !owners.equals(owners(running, topic));
        for (DefaultMQPushConsumer consumer : running) {
            consumer.shutdown();
        }
        for (Group group : groups) {
            Row row = new Row().put("group", group.name).put("sent", sent.get()).put("received", group.received.get())
                    .put("distinct", group.distinct()).put("duplicates", group.duplicates.get()).put("disorder", group.disorder.get())
                    .put("sendms", (allSent - started) / 1_000_000).put("totalms", (allReceived - started) / 1_000_000);
            int idle = 0;
            for (int n : group.perConsumer) {
                idle += n == 0 ? 1 : 0;
            }
            answer.row(row.put("idleconsumers", idle).put("moved", moved).put("oddities", group.oddities));
        }
    }

    private static Set<Integer> owned(DefaultMQPushConsumer consumer, String topic) {
        Set<Integer> owned = new TreeSet<>();
        for (MessageQueue queue : consumer.getDefaultMQPushConsumerImpl().getRebalanceImpl().getProcessQueueTable().keySet()) {
            if (queue.getTopic().equals(topic)) {
                owned.add(queue.getQueueId());
            }
        }
        return owned;
    }

    private static String owners(List<DefaultMQPushConsumer> running, String topic) {
        List<Set<Integer>> all = new ArrayList<>();
        for (DefaultMQPushConsumer consumer : running) {
            all.add(owned(consumer, topic));
        }
        return all.toString();
    }

    /** Whether the members of each group, which follow one another in the list, own all queues, each one its own. */
    private static boolean even(List<DefaultMQPushConsumer> running, String topic, int consumers, int queues) {
        for (int first = 0; first < running.size(); first += consumers) {
            Set<Integer> all = new TreeSet<>();
            int shares = 0;
            for (DefaultMQPushConsumer consumer : running.subList(first, first + consumers)) {
                Set<Integer> owned = owned(consumer, topic);
                all.addAll(owned);
                shares += owned.size();
            }
            if (all.size() != queues || shares != queues) {
                return false;
            }
        }
        return true;
    }

    private static DefaultMQPushConsumer start(Group group, int number, boolean orderly, String namesrv, String topic)
            throws Exception {
        DefaultMQPushConsumer consumer = new DefaultMQPushConsumer(group.name);
        consumer.setNamesrvAddr(namesrv);
        consumer.setInstanceName(group.name + number);
        consumer.setConsumeFromWhere(ConsumeFromWhere.CONSUME_FROM_FIRST_OFFSET);
        // One thread on one queue keeps the order of the queue in the concurrent group as well.
        consumer.setConsumeThreadMin(1);
        consumer.setConsumeThreadMax(1);
        consumer.setConsumeMessageBatchMaxSize(32);
        consumer.subscribe(topic, "*");
        if (orderly) {
            consumer.registerMessageListener((MessageListenerOrderly) (messages, context) -> {
                group.take(messages, number);
                return ConsumeOrderlyStatus.SUCCESS;
            });
        } else {
            consumer.registerMessageListener((MessageListenerConcurrently) (messages, context) -> {
                group.take(messages, number);
                return ConsumeConcurrentlyStatus.CONSUME_SUCCESS;
            });
        }
        consumer.start();
        return consumer;
    }

    private static void produce(int number, int count, int batchSize, int queues, String namesrv, String topic,
            AtomicLong sent, AtomicBoolean failed) throws Exception {
        DefaultMQProducer producer = new DefaultMQProducer(topic + "-producers");
        producer.setNamesrvAddr(namesrv);
        producer.setInstanceName(topic + "-producer" + number);
        producer.setSendMsgTimeout(10_000);
        producer.setRetryTimesWhenSendFailed(0);
        producer.start();
        try {
            List<MessageQueue> route = producer.fetchPublishMessageQueues(topic);
            if (route.size() != queues) {
                throw new IllegalStateException("the route has " + route.size() + " queues");
            }
            for (int sequence = 0, turn = number; sequence < count && !failed.get(); turn++) {
                MessageQueue queue = route.get(turn % queues);
                SendResult result;
                // Single messages and batches of every size up to the largest take turns.
                int size = 1 + turn * 7 % batchSize;
                if (size == 1) {
                    Message message = message(topic, number, sequence++);
                    result = unlessBusy(() -> producer.send(message, queue));
                    sent.incrementAndGet();
                } else {
                    List<Message> batch = new ArrayList<>(size);
                    while (batch.size() < size && sequence < count) {
                        batch.add(message(topic, number, sequence++));
                    }
                    result = unlessBusy(() -> producer.send(batch, queue));
                    sent.addAndGet(batch.size());
                }
                if (result.getSendStatus() != SendStatus.SEND_OK) {
                    throw new IllegalStateException("send status " + result.getSendStatus());
                }
            }
        } finally {
            producer.shutdown();
        }
    }

    interface Send {
        SendResult send() throws Exception;
    }

    /** SYSTEM_BUSY is flow control: the message was not taken, and may be sent again without becoming a duplicate. */
    private static SendResult unlessBusy(Send send) throws Exception {
        while (true) {
            try {
                return send.send();
            } catch (MQBrokerException e) {
                if (e.getResponseCode() != 2) {
                    throw e;
                }
                Thread.sleep(20);
            }
        }
    }

    private static Message message(String topic, int producer, int sequence) {
        return new Message(topic, ByteBuffer.allocate(64).putInt(producer).putInt(sequence).array());
    }
}
