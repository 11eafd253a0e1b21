import org.apache.rocketmq.client.consumer.DefaultMQPushConsumer;
import org.apache.rocketmq.common.protocol.heartbeat.MessageModel;

/** The message model lives in another package in each client version. */
final class Model {
    static void set(DefaultMQPushConsumer consumer, String model) {
        consumer.setMessageModel(MessageModel.valueOf(model));
    }

    /** This version shares out queues itself. */
    static void rebalanceAtBroker(DefaultMQPushConsumer consumer, long popInvisibleTime) {
        throw new UnsupportedOperationException("the 4.9 client cannot pop");
    }
}
