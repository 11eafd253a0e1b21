import java.nio.charset.StandardCharsets;
import java.util.List;
import org.apache.rocketmq.client.consumer.DefaultMQPushConsumer;
import org.apache.rocketmq.client.consumer.listener.ConsumeOrderlyStatus;
import org.apache.rocketmq.client.consumer.listener.MessageListenerOrderly;
import org.apache.rocketmq.client.producer.DefaultMQProducer;
import org.apache.rocketmq.client.producer.MessageQueueSelector;
import org.apache.rocketmq.client.producer.SendResult;
import org.apache.rocketmq.common.consumer.ConsumeFromWhere;
import org.apache.rocketmq.common.message.Message;
import org.apache.rocketmq.common.message.MessageExt;
import org.apache.rocketmq.common.message.MessageQueue;

/**
 * The textbook's ordered messages: the steps of one order go to one queue by a selector and are consumed in order by an
 * orderly listener. Arguments: name server address, topic, number of orders, number of steps.
 */
public class OrderedMessages {
    public static void main(String[] args) throws Exception {
        String topic = args[1];
        int orders = Integer.parseInt(args[2]);
        int steps = Integer.parseInt(args[3]);

        DefaultMQPushConsumer consumer = new DefaultMQPushConsumer("order_consumer_group");
        consumer.setNamesrvAddr(args[0]);
        consumer.setConsumeFromWhere(ConsumeFromWhere.CONSUME_FROM_FIRST_OFFSET);
        consumer.subscribe(topic, "*");
        consumer.registerMessageListener((MessageListenerOrderly) (messages, context) -> {
            for (MessageExt message : messages) {
                String body = new String(message.getBody(), StandardCharsets.UTF_8);
                System.out.println("received " + body + " queue " + message.getQueueId());
            }
            return ConsumeOrderlyStatus.SUCCESS;
        });

        DefaultMQProducer producer = new DefaultMQProducer("order_producer_group");
        producer.setNamesrvAddr(args[0]);
        producer.start();
        boolean consuming = false;
        for (int step = 0; step < steps; step++) {
            for (int id = 0; id < orders; id++) {
                Message message = new Message(topic, "order", "KEY" + id, (id + "/" + step).getBytes(StandardCharsets.UTF_8));
                while (true) {
                    try {
                        SendResult result = producer.send(message, new MessageQueueSelector() {
                            @Override
                            public MessageQueue select(List<MessageQueue> mqs, Message msg, Object arg) {
                                Integer id = (Integer) arg;
                                int index = id % mqs.size();
                                return mqs.get(index);
                            }
                        }, id);
                        System.out.println("sent " + id + "/" + step + " queue " + result.getMessageQueue().getQueueId());
                        break;
                    } catch (Exception e) {
                        System.out.println("again " + id + "/" + step + " " + e);
                        Thread.sleep(200);
                    }
                }
            }
            if (!consuming) {
                consumer.start();
                consuming = true;
            }
            Thread.sleep(100);
        }
        System.out.println("all sent");
        Thread.sleep(Long.MAX_VALUE);
    }
}
