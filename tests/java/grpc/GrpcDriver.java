import java.nio.ByteBuffer;
import java.nio.charset.StandardCharsets;
import java.time.Duration;
import java.util.Collections;
import java.util.List;
import java.util.Map;
import java.util.Set;
import java.util.concurrent.ConcurrentHashMap;
import java.util.regex.Matcher;
import java.util.regex.Pattern;
import java.util.zip.CRC32;
import org.apache.rocketmq.client.apis.ClientConfiguration;
import org.apache.rocketmq.client.apis.ClientException;
import org.apache.rocketmq.client.apis.ClientServiceProvider;
import org.apache.rocketmq.client.apis.consumer.ConsumeResult;
import org.apache.rocketmq.client.apis.consumer.FilterExpression;
import org.apache.rocketmq.client.apis.consumer.FilterExpressionType;
import org.apache.rocketmq.client.apis.consumer.LitePushConsumer;
import org.apache.rocketmq.client.apis.consumer.MessageListener;
import org.apache.rocketmq.client.apis.consumer.PushConsumer;
import org.apache.rocketmq.client.apis.consumer.SimpleConsumer;
import org.apache.rocketmq.client.apis.message.Message;
import org.apache.rocketmq.client.apis.message.MessageBuilder;
import org.apache.rocketmq.client.apis.message.MessageView;
import org.apache.rocketmq.client.apis.producer.Producer;
import org.apache.rocketmq.client.apis.producer.ProducerBuilder;
import org.apache.rocketmq.client.apis.producer.SendReceipt;
import org.apache.rocketmq.client.apis.producer.Transaction;
import org.apache.rocketmq.client.apis.producer.TransactionResolution;

/** Drives the official RocketMQ client of the gRPC protocol by {@link Lines}. */
public final class GrpcDriver {
    private static final ClientServiceProvider PROVIDER = ClientServiceProvider.loadService();
    /** How the client's exceptions tell the server's code. */
    private static final Pattern CODE = Pattern.compile("response-code=(\\d+)");
    private static final Map<String, Producer> PRODUCERS = new ConcurrentHashMap<>();
    private static final Map<String, PushConsumer> CONSUMERS = new ConcurrentHashMap<>();
    private static final Map<String, LitePushConsumer> LITES = new ConcurrentHashMap<>();
    private static final Map<String, SimpleConsumer> SIMPLES = new ConcurrentHashMap<>();
    /** What simple consumers hold, by message id. */
    private static final Map<String, MessageView> HELD = new ConcurrentHashMap<>();

    public static void main(String[] argv) throws Exception {
        Lines.serve(new Lines.Verbs() {
            @Override
            public void run(String verb, Args args, Lines.Answer answer) throws Exception {
                GrpcDriver.run(verb, args, answer);
            }

            @Override
            public Row failure(Row row, Throwable e) {
                for (Throwable t = e; t != null; t = t.getCause()) {
                    Matcher code = CODE.matcher(String.valueOf(t.getMessage()));
                    if (code.find()) {
                        return row.put("code", code.group(1)).put("error", t.toString());
                    }
                }
                return row.put("error", e.toString());
            }
        });
    }

    private static void run(String verb, Args args, Lines.Answer answer) throws Exception {
        switch (verb) {
            case "producer":
                producer(args);
                break;
            case "send":
                for (String spec : args.all("m")) {
                    answer.row(result(PRODUCERS.get(args.need("name")).send(build(Args.parse(spec)))));
                }
                break;
            case "transact":
                transact(args, answer);
                break;
            case "recall":
                answer.row(new Row().put("id", PRODUCERS.get(args.need("name"))
                        .recallMessage(args.need("topic"), args.need("handle")).getMessageId()));
                break;
            case "consumer":
                consumer(args);
                break;
            case "lite":
                LITES.put(args.need("name"), PROVIDER.newLitePushConsumerBuilder()
                        .setClientConfiguration(configuration(args))
                        .setConsumerGroup(args.need("group"))
                        .bindTopic(args.need("topic"))
                        .setMessageListener(listener(args))
                        .build());
                break;
            case "subscribe":
                LITES.get(args.need("name")).subscribeLite(args.need("lite"));
                break;
            case "unsubscribe":
                LITES.get(args.need("name")).unsubscribeLite(args.need("lite"));
                break;
            case "simple":
                SIMPLES.put(args.need("name"), PROVIDER.newSimpleConsumerBuilder()
                        .setClientConfiguration(configuration(args))
                        .setConsumerGroup(args.need("group"))
                        .setAwaitDuration(Duration.ofMillis(args.num64("await", 5_000)))
                        .setSubscriptionExpressions(Collections.singletonMap(args.need("topic"), filter(args)))
                        .build());
                break;
            case "receive":
                for (MessageView m : SIMPLES.get(args.need("name")).receive(args.num("max", 16),
                        Duration.ofMillis(args.num64("invisible", 10_000)))) {
                    HELD.put(m.getMessageId().toString(), m);
                    answer.row(message(m));
                }
                break;
            case "ack":
                SIMPLES.get(args.need("name")).ack(HELD.get(args.need("id")));
                break;
            case "invisible":
                SIMPLES.get(args.need("name")).changeInvisibleDuration(HELD.get(args.need("id")),
                        Duration.ofMillis(args.num64("invisible", 10_000)));
                break;
            case "stop":
                stop(args.need("name"));
                break;
            default:
                throw new IllegalArgumentException("unknown verb " + verb);
        }
    }

    private static void stop(String name) throws Exception {
        for (AutoCloseable closed : new AutoCloseable[] {PRODUCERS.remove(name), CONSUMERS.remove(name), LITES.remove(name),
                SIMPLES.remove(name)}) {
            if (closed != null) {
                closed.close();
            }
        }
    }

    private static ClientConfiguration configuration(Args args) {
        return ClientConfiguration.newBuilder()
                .setEndpoints(args.need("endpoints"))
                .setRequestTimeout(Duration.ofMillis(args.num64("timeout", 5_000)))
                .enableSsl(Boolean.parseBoolean(args.get("tls", "true")))
                .setNamespace(args.get("namespace", ""))
                .build();
    }

    private static FilterExpression filter(Args args) {
        String sql = args.get("sql", null);
        return sql != null ? new FilterExpression(sql, FilterExpressionType.SQL92)
                : new FilterExpression(args.get("expression", "*"), FilterExpressionType.TAG);
    }

    private static void producer(Args args) throws ClientException {
        ProducerBuilder builder = PROVIDER.newProducerBuilder().setClientConfiguration(configuration(args));
        if (args.get("topic", null) != null) {
            builder.setTopics(args.need("topic"));
        }
        String check = args.get("check", null);
        if (check != null) {
            String name = args.need("name");
            builder.setTransactionChecker(m -> {
                Lines.line("event " + name + " " + message(m));
                return TransactionResolution.valueOf(check);
            });
        }
        PRODUCERS.put(args.need("name"), builder.build());
    }

    private static Message build(Args a) {
        MessageBuilder builder = PROVIDER.newMessageBuilder().setTopic(a.need("topic"))
                .setBody(a.get("body", "").getBytes(StandardCharsets.UTF_8));
        if (a.get("tags", null) != null) {
            builder.setTag(a.get("tags", null));
        }
        if (a.get("keys", null) != null) {
            builder.setKeys(a.get("keys", null).split(" "));
        }
        if (a.get("group", null) != null) {
            builder.setMessageGroup(a.get("group", null));
        }
        if (a.get("delay", null) != null) {
            builder.setDeliveryTimestamp(System.currentTimeMillis() + a.num64("delay", 0));
        }
        if (a.get("lite", null) != null) {
            builder.setLiteTopic(a.get("lite", null));
        }
        if (a.get("priority", null) != null) {
            builder.setPriority(a.num("priority", 0));
        }
        for (String key : a.keys()) {
            if (key.startsWith("p.")) {
                builder.addProperty(key.substring(2), a.get(key, ""));
            }
        }
        return builder.build();
    }

    private static Row result(SendReceipt r) {
        return new Row().put("id", r.getMessageId()).put("recall", r.getRecallHandle());
    }

    private static void transact(Args args, Lines.Answer answer) throws Exception {
        Producer producer = PRODUCERS.get(args.need("name"));
        for (String spec : args.all("m")) {
            Transaction transaction = producer.beginTransaction();
            answer.row(result(producer.send(build(Args.parse(spec)), transaction)));
            switch (args.need("end")) {
                case "commit":
                    transaction.commit();
                    break;
                case "rollback":
                    transaction.rollback();
                    break;
                default:
                    // The broker has to ask.
            }
        }
    }

    private static void consumer(Args args) throws ClientException {
        CONSUMERS.put(args.need("name"), PROVIDER.newPushConsumerBuilder()
                .setClientConfiguration(configuration(args))
                .setConsumerGroup(args.need("group"))
                .setConsumptionThreadCount(args.num("threads", 4))
                .setSubscriptionExpressions(Collections.singletonMap(args.need("topic"), filter(args)))
                .setMessageListener(listener(args))
                .build());
    }

    /** Tells each message, and fails the first deliveries of each as often as asked. */
    private static MessageListener listener(Args args) {
        String name = args.need("name");
        int failing = args.num("fail", 0);
        Set<String> failed = ConcurrentHashMap.newKeySet();
        return m -> {
            Lines.line("event " + name + " " + message(m));
            boolean again = m.getDeliveryAttempt() <= failing && failed.add(m.getMessageId() + "/" + m.getDeliveryAttempt());
            return again ? ConsumeResult.FAILURE : ConsumeResult.SUCCESS;
        };
    }

    private static Row message(MessageView m) {
        ByteBuffer buffer = m.getBody();
        byte[] body = new byte[buffer.remaining()];
        buffer.get(body);
        CRC32 crc = new CRC32();
        crc.update(body);
        List<String> keys = List.copyOf(m.getKeys());
        Row row = new Row().put("topic", m.getTopic()).put("id", m.getMessageId()).put("tags", m.getTag().orElse(null))
                .put("keys", keys.isEmpty() ? null : String.join(" ", keys)).put("group", m.getMessageGroup().orElse(null))
                .put("attempt", m.getDeliveryAttempt()).put("len", body.length).put("crc", crc.getValue())
                .put("born", m.getBornTimestamp()).put("bornhost", m.getBornHost())
                .put("delivery", m.getDeliveryTimestamp().orElse(null)).put("priority", m.getPriority().orElse(null))
                .put("lite", m.getLiteTopic().orElse(null))
                .put("body", new String(body, StandardCharsets.UTF_8)).put("at", System.currentTimeMillis());
        for (Map.Entry<String, String> p : m.getProperties().entrySet()) {
            row.put("p." + p.getKey(), p.getValue());
        }
        return row;
    }
}
