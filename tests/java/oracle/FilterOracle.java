import java.io.BufferedReader;
import java.io.InputStreamReader;
import java.nio.charset.StandardCharsets;
import java.util.ArrayList;
import java.util.HashMap;
import java.util.List;
import java.util.Map;
import org.apache.rocketmq.broker.filter.MessageEvaluationContext;
import org.apache.rocketmq.common.message.MessageDecoder;
import org.apache.rocketmq.filter.FilterFactory;
import org.apache.rocketmq.filter.expression.Expression;

/**
 * What RocketMQ's own filter classes say. Lines on stdin, the text in hex: {@code m <properties>} adds a message, {@code e <expression>}
 * asks. Each question is answered by a line: {@code refused}, or a 1 or 0 for each message, as its broker would deliver it.
 */
public final class FilterOracle {
    public static void main(String[] argv) throws Exception {
        List<Map<String, String>> messages = new ArrayList<>();
        BufferedReader in = new BufferedReader(new InputStreamReader(System.in, StandardCharsets.UTF_8));
        StringBuilder out = new StringBuilder();
        String line;
        while ((line = in.readLine()) != null) {
            byte[] bytes = new byte[line.length() / 2 - 1];
            for (int i = 0; i < bytes.length; i++) {
                bytes[i] = (byte) Integer.parseInt(line.substring(2 + 2 * i, 4 + 2 * i), 16);
            }
            String text = new String(bytes, StandardCharsets.UTF_8);
            if (line.charAt(0) == 'm') {
                messages.add(new HashMap<>(MessageDecoder.string2messageProperties(text)));
                continue;
            }
            Expression expression;
            try {
                expression = FilterFactory.INSTANCE.get("SQL92").compile(text);
            } catch (Throwable e) {
                out.append("refused\n");
                continue;
            }
            for (Map<String, String> properties : messages) {
                Object result = null;
                try {
                    result = expression.evaluate(new MessageEvaluationContext(properties));
                } catch (Throwable e) {
                    // As the broker takes it: no match.
                }
                out.append(Boolean.TRUE.equals(result) ? '1' : '0');
            }
            out.append('\n');
        }
        System.out.print(out);
        System.out.flush();
    }
}
