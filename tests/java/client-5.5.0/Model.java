import org.apache.rocketmq.client.consumer.DefaultMQPushConsumer;
import org.apache.rocketmq.remoting.protocol.heartbeat.MessageModel;

/** The message model lives in another package in each client version. */
final class Model {
    static void set(DefaultMQPushConsumer consumer, String model) {
        consumer.setMessageModel(MessageModel.valueOf(model));
    }

    /** Lets the broker share out the queues, by pull or pop as it is set there. */
    static void rebalanceAtBroker(DefaultMQPushConsumer consumer, long popInvisibleTime) {
        consumer.setClientRebalance(false);
        consumer.setPopInvisibleTime(popInvisibleTime);
    }
}
