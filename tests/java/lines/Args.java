import java.net.URLDecoder;
import java.util.ArrayList;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.Set;

/** One request's parameters; a key may repeat. */
final class Args {
    private final Map<String, List<String>> values = new LinkedHashMap<>();

    static Args parse(String text) throws Exception {
        Args args = new Args();
        if (!text.isEmpty()) {
            for (String pair : text.split("&")) {
                int eq = pair.indexOf('=');
                String key = URLDecoder.decode(pair.substring(0, eq), "UTF-8");
                args.values.computeIfAbsent(key, k -> new ArrayList<>())
                        .add(URLDecoder.decode(pair.substring(eq + 1), "UTF-8"));
            }
        }
        return args;
    }

    String get(String key, String otherwise) {
        List<String> all = values.get(key);
        return all == null ? otherwise : all.get(0);
    }

    String need(String key) {
        String value = get(key, null);
        if (value == null) {
            throw new IllegalArgumentException("parameter " + key + " is missing");
        }
        return value;
    }

    int num(String key, int otherwise) {
        return Integer.parseInt(get(key, Integer.toString(otherwise)));
    }

    long num64(String key, long otherwise) {
        return Long.parseLong(get(key, Long.toString(otherwise)));
    }

    List<String> all(String key) {
        return values.getOrDefault(key, new ArrayList<>());
    }

    Set<String> keys() {
        return values.keySet();
    }
}
