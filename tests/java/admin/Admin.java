import java.io.BufferedReader;
import java.io.ByteArrayOutputStream;
import java.io.InputStreamReader;
import java.io.PrintStream;
import java.net.URLDecoder;
import java.net.URLEncoder;
import java.nio.charset.StandardCharsets;
import java.util.ArrayList;
import java.util.List;
import org.apache.rocketmq.tools.command.MQAdminStartup;

/**
 * Runs command lines of the official mqadmin in one JVM, and answers with all that each printed.
 *
 * <p>The lines are those of {@code common/Driver.java}; the one verb is {@code mqadmin}, with a parameter {@code a} for
 * each argument. Commands run one after the other: they print to the process's one output.
 */
public final class Admin {
    /** How long a command may run. */
    private static final long LIMIT_MILLIS = 20_000;

    public static void main(String[] argv) throws Exception {
        PrintStream answers = System.out;
        BufferedReader in = new BufferedReader(new InputStreamReader(System.in, StandardCharsets.UTF_8));
        answers.println("ready");
        String request;
        while ((request = in.readLine()) != null) {
            String[] part = request.split(" ", 3);
            ByteArrayOutputStream printed = new ByteArrayOutputStream();
            PrintStream to = new PrintStream(printed, true, "UTF-8");
            System.setOut(to);
            System.setErr(to);
            String[] arguments = arguments(part[2]);
            // A command that is used again works with the client it has shut down: brokerConsumeStats cannot connect then.
            Commands.forget();
            Thread command = new Thread(() -> MQAdminStartup.main0(arguments, null), "command");
            command.start();
            command.join(LIMIT_MILLIS);
            // Some commands repeat themselves until somebody stops them.
            command.interrupt();
            command.join();
            to.flush();
            answers.println(part[0] + " row out=" + URLEncoder.encode(printed.toString("UTF-8"), "UTF-8"));
            answers.println(part[0] + " done");
            answers.flush();
        }
        Runtime.getRuntime().halt(0);
    }

    private static String[] arguments(String query) throws Exception {
        List<String> arguments = new ArrayList<>();
        for (String pair : query.split("&")) {
            if (pair.startsWith("a=")) {
                arguments.add(URLDecoder.decode(pair.substring(2), "UTF-8"));
            }
        }
        return arguments.toArray(new String[0]);
    }

    /** The tool's list of commands. */
    private static final class Commands extends MQAdminStartup {
        static void forget() {
            SUB_COMMANDS.clear();
        }
    }
}
