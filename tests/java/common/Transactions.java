import java.util.Map;
import java.util.concurrent.ConcurrentHashMap;
import java.util.concurrent.atomic.AtomicInteger;
import org.apache.rocketmq.client.producer.LocalTransactionState;
import org.apache.rocketmq.client.producer.TransactionListener;
import org.apache.rocketmq.client.producer.TransactionMQProducer;
import org.apache.rocketmq.client.producer.TransactionSendResult;
import org.apache.rocketmq.common.message.Message;
import org.apache.rocketmq.common.message.MessageExt;

/**
 * Transactional producers. The property {@code local} of a message says how its local transaction ends, {@code check} how a
 * check is answered: {@code commit}, {@code rollback} or {@code unknown}. {@code unknowns} checks are answered unknown before.
 */
final class Transactions {
    private static final Map<String, TransactionMQProducer> PRODUCERS = new ConcurrentHashMap<>();

    private static LocalTransactionState state(String word) {
        return "commit".equals(word) ? LocalTransactionState.COMMIT_MESSAGE
                : "rollback".equals(word) ? LocalTransactionState.ROLLBACK_MESSAGE : LocalTransactionState.UNKNOW;
    }

    static void start(Args args) throws Exception {
        String name = args.need("name");
        Map<String, AtomicInteger> asked = new ConcurrentHashMap<>();
        TransactionMQProducer producer = new TransactionMQProducer(args.need("group"));
        producer.setNamesrvAddr(args.need("namesrv"));
        producer.setInstanceName(name);
        producer.setSendMsgTimeout(args.num("timeout", 5000));
        producer.setHeartbeatBrokerInterval(1000);
        producer.setTransactionListener(new TransactionListener() {
            @Override
            public LocalTransactionState executeLocalTransaction(Message m, Object arg) {
                return state(m.getProperty("local"));
            }

            @Override
            public LocalTransactionState checkLocalTransaction(MessageExt m) {
                Lines.line("event " + name + " " + Driver.message(m).put("transaction", m.getTransactionId()));
                int before = asked.computeIfAbsent(m.getTransactionId(), k -> new AtomicInteger()).getAndIncrement();
                String unknowns = m.getProperty("unknowns");
                boolean unknown = unknowns != null && before < Integer.parseInt(unknowns);
                return unknown ? LocalTransactionState.UNKNOW : state(m.getProperty("check"));
            }
        });
        producer.start();
        PRODUCERS.put(name, producer);
    }

    static void send(Args args, Lines.Answer answer) throws Exception {
        TransactionMQProducer producer = PRODUCERS.get(args.need("name"));
        for (String spec : args.all("m")) {
            TransactionSendResult r = producer.sendMessageInTransaction(Driver.build(Args.parse(spec)), null);
            answer.row(Driver.result(r).put("state", r.getLocalTransactionState()));
        }
    }

    static void stop(String name) {
        TransactionMQProducer producer = PRODUCERS.remove(name);
        if (producer != null) {
            producer.shutdown();
        }
    }
}
